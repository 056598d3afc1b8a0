"""Building an image classifier from a name, a module or a spec, and calling it."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import timm
from torch import Tensor, nn

from lightning_noisy.models.data_config import fits_config, set_image_size
from lightning_noisy.models.kinds import is_timm, is_transformers, timm_model_inside
from lightning_noisy.models.peft_models import adapter_config, unwrap_peft
from lightning_noisy.models.spec import build_from_spec
from lightning_noisy.models.timm_models import build_timm
from lightning_noisy.models.transformers_models import build_transformers, set_labels


def build_backbone(
    backbone: str | Mapping[str, Any] | nn.Module,
    num_classes: int,
    *,
    class_names: Sequence[str] | None = None,
    pretrained: bool = True,
    image_size: int | None = None,
    backbone_kwargs: Mapping[str, Any] | None = None,
) -> nn.Module:
    """An image classifier with ``num_classes`` outputs.

    Args:
        backbone: ``"timm:NAME"``, ``"timm:hf-hub:USER/REPO"``, ``"timm:local-dir:DIR"``, ``"hf:REPO_OR_DIR"``, a module
            (its head is adapted where timm or transformers made it), or what :func:`backbone_spec` returned: the same
            architecture without pretrained weights.
        num_classes: Number of classes ``K``.
        class_names: The K names, for the config of a transformers model.
        pretrained: Whether to load pretrained weights.
        image_size: Side of the images in pixels, if not the backbone's own.
        backbone_kwargs: Passed on to ``timm.create_model``, or set in the transformers config.

    Raises:
        ValueError: If the backbone is unknown, has no classification head or can't be loaded.
    """
    if class_names is not None and len(class_names) != num_classes:
        raise ValueError(
            f"Expected argument `class_names` to have {num_classes} names, one a class, but got {len(class_names)}."
        )
    kwargs = dict(backbone_kwargs or {})
    if isinstance(backbone, nn.Module | Mapping):
        model = unwrap_peft(backbone) if isinstance(backbone, nn.Module) else build_from_spec(backbone)
        _adapt_head(model, num_classes, class_names)
    else:
        library, _, name = str(backbone).partition(":")
        if library == "timm" and name:
            model = build_timm(name, num_classes, pretrained, image_size, kwargs)
        elif library == "hf" and name:
            model = build_transformers(name, num_classes, class_names, pretrained, kwargs)
        else:
            raise ValueError(
                "Expected argument `backbone` to be 'timm:NAME', 'timm:hf-hub:USER/REPO', 'timm:local-dir:DIR', "
                f"'hf:REPO_OR_DIR' or a module, but got {backbone!r}.{_prefix_hint(str(backbone))}"
            )
    if image_size is not None:
        set_image_size(model, image_size)
    return model


def clean_logits(model: nn.Module, images: Tensor) -> Tensor:
    """(B, 3, H, W) images -> (B, K) logits, from a model that returns a tensor or an output with ``logits``."""
    output = model(images, **forward_options(model, images))
    return output if isinstance(output, Tensor) else output.logits


def forward_options(model: nn.Module, images: Tensor) -> dict[str, Any]:
    """What a transformers model must be told to take images of another size than its config's."""
    if not is_transformers(model) or fits_config(model, *images.shape[-2:]):
        return {}
    reader = getattr(model, "vision_model", model)
    has_option = "interpolate_pos_encoding" in inspect.signature(reader.forward).parameters
    return {"interpolate_pos_encoding": True} if has_option else {}


def _adapt_head(model: Any, num_classes: int, class_names: Sequence[str] | None) -> None:
    if adapter_config(model) is not None and _num_classes(model) not in (num_classes, None):
        raise ValueError(
            f"Expected argument `backbone` to be a PeftModel around a model with {num_classes} classes, but it has "
            f"{_num_classes(model)}. Give the model its head before the adapter: `num_classes={num_classes}` of timm, "
            f"`num_labels={num_classes}` of transformers."
        )
    if is_timm(model) and model.num_classes != num_classes:
        model.reset_classifier(num_classes)
    if not is_transformers(model):
        return
    if model.config.num_labels != num_classes and (timm_model := timm_model_inside(model)) is not None:
        timm_model.reset_classifier(num_classes)
        model.num_labels = num_classes
    elif model.config.num_labels != num_classes:
        names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        names = [name for name in names if name.partition(".")[0] == "classifier"]
        if not names:
            raise ValueError(
                f"Expected argument `backbone` to be a model with {num_classes} classes, but it has "
                f"{model.config.num_labels} and no linear `classifier` that could be replaced."
            )
        old = model.get_submodule(names[-1])
        like_old = {"bias": old.bias is not None, "device": old.weight.device, "dtype": old.weight.dtype}
        model.set_submodule(names[-1], nn.Linear(old.in_features, num_classes, **like_old))
        model.num_labels = num_classes
    elif class_names is None:
        return
    set_labels(model, num_classes, class_names)


def _num_classes(model: Any) -> int | None:
    return model.config.num_labels if is_transformers(model) else getattr(model, "num_classes", None)


def _prefix_hint(backbone: str) -> str:
    if backbone.partition(".")[0] in timm.list_models():
        return f" Did you mean 'timm:{backbone}'?"
    return f" Did you mean 'hf:{backbone}'?" if "/" in backbone else ""
