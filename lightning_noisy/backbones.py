"""One way to build, inspect and save a timm or transformers image classifier."""

import copy
import difflib
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_model
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, resolve_model_data_config
from torch import Tensor, nn

DEFAULT_DATA_CONFIG: dict[str, Any] = {
    "input_size": (3, 224, 224),
    "interpolation": "bicubic",
    "mean": IMAGENET_DEFAULT_MEAN,
    "std": IMAGENET_DEFAULT_STD,
    "crop_pct": 0.875,
    "crop_mode": "center",
}
"""For a module that does not say how it wants its images."""

_DATA_CONFIG = "_noisy_data_config"
_PROCESSOR = "_noisy_image_processor"
_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
_LOCAL_KEYS = ("file", "url", "source", "state_dict", "hf_hub_filename")


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
        ValueError: If the backbone is unknown or can't be loaded.
    """
    kwargs = dict(backbone_kwargs or {})
    if isinstance(backbone, nn.Module):
        model = _adapt_head(backbone, num_classes, class_names)
    elif isinstance(backbone, Mapping):
        model = _build_from_spec(backbone)
    else:
        library, _, name = str(backbone).partition(":")
        if library == "timm" and name:
            model = _build_timm(name, num_classes, pretrained, image_size, kwargs)
        elif library == "hf" and name:
            model = _build_transformers(name, num_classes, class_names, pretrained, kwargs)
        else:
            raise ValueError(
                "Expected argument `backbone` to be 'timm:NAME', 'timm:hf-hub:USER/REPO', 'timm:local-dir:DIR', "
                f"'hf:REPO_OR_DIR' or a module, but got {backbone!r}.{_prefix_hint(str(backbone))}"
            )
    if image_size is not None:
        config = {**resolve_data_config(model), "input_size": (3, image_size, image_size)}
        setattr(model, _DATA_CONFIG, config)
    return model


def backbone_spec(model: nn.Module) -> dict[str, Any] | None:
    """Primitives from which :func:`build_backbone` makes the same architecture, without weights, network or files.

    ``None`` for one's own module.
    """
    if _is_transformers(model):
        config = model.config.to_dict()
        for key in ("_name_or_path", "transformers_version"):
            config.pop(key, None)
        spec = {"library": "transformers", "config": config, "processor": getattr(model, _PROCESSOR, None)}
    elif _is_timm(model):
        from timm.models._input import get_model_args

        pretrained_cfg = {
            key: value for key, value in model.pretrained_cfg.items() if key not in _LOCAL_KEYS and value is not None
        }
        kwargs = {**get_model_args(model), "num_classes": model.num_classes}
        spec = {
            "library": "timm",
            "architecture": pretrained_cfg.get("architecture"),
            "kwargs": kwargs,
            "pretrained_cfg": pretrained_cfg,
        }
    else:
        return None
    spec["data_config"] = dict(resolve_data_config(model))
    return _primitives(spec) if _gives_same_parameters(spec, model) else None


def clean_logits(model: nn.Module, images: Tensor) -> Tensor:
    """(B, 3, H, W) images -> (B, K) logits, from a model that returns a tensor or an output with ``logits``."""
    if _needs_interpolation(model, images):
        output = model(images, interpolate_pos_encoding=True)
    else:
        output = model(images)
    return output if isinstance(output, Tensor) else output.logits


def resolve_data_config(model: nn.Module) -> dict[str, Any]:
    """How the model wants its images: what ``timm.data.create_transform`` takes.

    Keys: ``input_size`` (3, H, W), ``interpolation``, ``mean``, ``std``, ``crop_pct``, ``crop_mode``. One's own module
    tells it by an attribute ``data_config``.
    """
    config = getattr(model, _DATA_CONFIG, None) or getattr(model, "data_config", None)
    if config is None and _is_timm(model):
        config = resolve_model_data_config(model)
    if config is None and _is_transformers(model):
        config = _transformers_data_config(model)
    return {**DEFAULT_DATA_CONFIG, **(config or {})}


def save_backbone(model: nn.Module, directory: str | Path, class_names: Sequence[str] | None = None) -> None:
    """Writes the model in its library's own format, weights as safetensors.

    timm: for ``timm.create_model("local-dir:DIR", pretrained=True)``. transformers: for
    ``AutoModelForImageClassification.from_pretrained(DIR)``. One's own module: ``model.safetensors``.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    names = list(class_names or [])
    if _is_transformers(model):
        model.save_pretrained(directory)
        processor = getattr(model, _PROCESSOR, None)
        if processor is not None:
            (directory / "preprocessor_config.json").write_text(json.dumps(processor, indent=2), encoding="utf-8")
    elif _is_timm(model):
        _save_timm(model, directory, names)
    else:
        save_model(model, str(directory / "model.safetensors"))
        (directory / "class_names.json").write_text(json.dumps(names), encoding="utf-8")


def _build_timm(
    name: str, num_classes: int, pretrained: bool, image_size: int | None, kwargs: dict[str, Any]
) -> nn.Module:
    _check_timm_name(name)

    def create(**more: Any) -> nn.Module:
        try:
            return timm.create_model(name, pretrained=pretrained, num_classes=num_classes, **kwargs, **more)
        except TypeError as error:
            raise ValueError(f"Argument `backbone_kwargs` does not fit 'timm:{name}': {error}.") from error
        except Exception as error:  # the network, the Hub and files raise many kinds
            raise _cannot_load(f"timm:{name}", pretrained, error) from error

    model = create()
    if not isinstance(model.get_classifier(), nn.Module) or isinstance(model.get_classifier(), nn.Identity):
        raise ValueError(f"Expected argument `backbone` to name a classifier, but 'timm:{name}' has no head.")
    is_fixed = model.pretrained_cfg.get("fixed_input_size", False)
    if image_size is not None and is_fixed and tuple(model.pretrained_cfg["input_size"][1:]) != (image_size,) * 2:
        model = create(img_size=image_size)
    return model


def _build_transformers(
    name: str, num_classes: int, class_names: Sequence[str] | None, pretrained: bool, kwargs: dict[str, Any]
) -> nn.Module:
    from transformers import AutoConfig, AutoModelForImageClassification
    from transformers.utils import logging

    if name.startswith((".", "/", "~")) and not Path(name).expanduser().is_dir():
        raise ValueError(f"Expected argument `backbone` to name a model, but the folder {name!r} does not exist.")
    name = str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name
    try:
        config = AutoConfig.from_pretrained(name, **_label_maps(num_classes, class_names), **kwargs)
        if not pretrained:
            model = AutoModelForImageClassification.from_config(config)
        else:
            verbosity = logging.get_verbosity()
            logging.set_verbosity_error()  # it would report at length that the head is new, which is meant
            try:
                model = AutoModelForImageClassification.from_pretrained(
                    name, config=config, ignore_mismatched_sizes=True
                )
            finally:
                logging.set_verbosity(verbosity)
    except Exception as error:  # the network, the Hub and files raise many kinds
        raise _cannot_load(f"hf:{name}", pretrained, error) from error
    setattr(model, _PROCESSOR, _read_processor(name))
    return model


def _build_from_spec(spec: Mapping[str, Any]) -> nn.Module:
    if spec.get("library") == "timm":
        model = timm.create_model(
            spec["architecture"], pretrained=False, pretrained_cfg=dict(spec["pretrained_cfg"]), **spec["kwargs"]
        )
    elif spec.get("library") == "transformers":
        from transformers import AutoConfig, AutoModelForImageClassification

        config = copy.deepcopy(dict(spec["config"]))
        model = AutoModelForImageClassification.from_config(AutoConfig.for_model(config.pop("model_type"), **config))
        setattr(model, _PROCESSOR, spec.get("processor"))
    else:
        raise ValueError(
            f"Expected argument `backbone` to be a dict with `library` 'timm' or 'transformers', but got {dict(spec)!r}."
        )
    setattr(model, _DATA_CONFIG, dict(spec["data_config"]))
    return model


def _adapt_head(model: nn.Module, num_classes: int, class_names: Sequence[str] | None) -> nn.Module:
    if _is_transformers(model):
        if model.config.num_labels != num_classes:
            head = getattr(model, "classifier", None)
            linear = head if isinstance(head, nn.Linear) else _last_linear(head) if head is not None else None
            if linear is None:
                raise ValueError(
                    f"Expected argument `backbone` to be a model with {num_classes} classes, but it has "
                    f"{model.config.num_labels} and no linear `classifier` that could be replaced."
                )
            _replace(model, linear, nn.Linear(linear.in_features, num_classes, linear.bias is not None))
        for key, value in _label_maps(num_classes, class_names).items():
            setattr(model.config, key, value)
    elif _is_timm(model) and model.num_classes != num_classes:
        model.reset_classifier(num_classes)
    return model


def _last_linear(module: nn.Module) -> nn.Linear | None:
    linears = [child for child in module.modules() if isinstance(child, nn.Linear)]
    return linears[-1] if linears else None


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    name = next(name for name, module in model.named_modules() if module is old)
    parent, _, child = name.rpartition(".")
    reference = next(old.parameters())
    setattr(model.get_submodule(parent), child, new.to(reference.device, reference.dtype))


def _label_maps(num_classes: int, class_names: Sequence[str] | None) -> dict[str, dict]:
    names = list(class_names or map(str, range(num_classes)))
    return {"id2label": dict(enumerate(names)), "label2id": {name: label for label, name in enumerate(names)}}


def _read_processor(name: str) -> dict[str, Any] | None:
    from transformers import AutoImageProcessor

    try:
        return json.loads(AutoImageProcessor.from_pretrained(name).to_json_string())
    except (OSError, ValueError, ImportError):  # a folder without one
        return None


def _transformers_data_config(model: Any) -> dict[str, Any]:
    """From the image processor that came with the model, else from its config."""
    side = _config_image_size(model)
    config: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 1.0}
    if side is not None:
        config["input_size"] = (3, side, side)
    processor = getattr(model, _PROCESSOR, None) or {}
    if processor.get("do_normalize", True):
        for ours, theirs in {"mean": "image_mean", "std": "image_std"}.items():
            if processor.get(theirs):
                config[ours] = tuple(processor[theirs])
    if processor.get("resample") in _RESAMPLING:
        config["interpolation"] = _RESAMPLING[processor["resample"]]
    resized = _side(processor.get("size"))
    cropped = _side(processor.get("crop_size")) if processor.get("do_center_crop") else None
    if cropped or resized:
        shown = cropped or resized
        config["input_size"] = (3, shown, shown)
        config["crop_pct"] = processor.get("crop_pct") or (shown / resized if resized and cropped else 1.0)
    return config


def _side(size: Any) -> int | None:
    if isinstance(size, Mapping):
        size = size.get("height") or size.get("shortest_edge")
    return int(size) if isinstance(size, int | float) else None


def _config_image_size(model: Any) -> int | None:
    config = getattr(model.config, "vision_config", model.config)
    size = getattr(config, "image_size", None)
    return size[0] if isinstance(size, list | tuple) else size


def _needs_interpolation(model: Any, images: Tensor) -> bool:
    if not _is_transformers(model) or _config_image_size(model) in (None, images.shape[-1]):
        return False
    reader = getattr(model, "vision_model", model)
    return "interpolate_pos_encoding" in inspect.signature(reader.forward).parameters


def _save_timm(model: Any, directory: Path, class_names: list[str]) -> None:
    data_config = resolve_data_config(model)
    timm.models.save_for_hf(
        model,
        str(directory),
        model_config={"label_names": class_names} if class_names else None,
        data_config=data_config,
        safe_serialization=True,
    )


def _gives_same_parameters(spec: dict[str, Any], model: nn.Module) -> bool:
    with torch.device("meta"):
        try:
            rebuilt = _build_from_spec(spec)
        except (TypeError, ValueError, RuntimeError, KeyError):
            return False
    ours, theirs = model.state_dict(), rebuilt.state_dict()
    return ours.keys() == theirs.keys() and all(ours[key].shape == theirs[key].shape for key in ours)


def _primitives(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _primitives(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_primitives(item) for item in value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _is_timm(model: nn.Module) -> bool:
    return hasattr(model, "pretrained_cfg") and hasattr(model, "reset_classifier")


def _is_transformers(model: Any) -> bool:
    return hasattr(model, "config") and hasattr(model, "save_pretrained")


def _check_timm_name(name: str) -> None:
    scheme, _, rest = name.partition(":")
    if scheme == "local-dir":
        if not (Path(rest) / "config.json").is_file():
            raise ValueError(
                f"Expected argument `backbone` to name a folder with a config.json, but {rest!r} has none."
            )
        return
    if scheme == "hf-hub":
        return
    architecture, _, tag = name.partition(".")
    if architecture not in timm.list_models():
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3, cutoff=0.5)
        raise ValueError(f"Expected argument `backbone` to name a timm model, but got 'timm:{name}'.{_near(near)}")
    tags = {known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")}
    if tag and tag not in tags:
        names = [f"{architecture}.{known}" for known in difflib.get_close_matches(tag, tags, n=3, cutoff=0.0)]
        raise ValueError(f"Expected argument `backbone` to name a timm model, but got 'timm:{name}'.{_near(names)}")


def _near(names: Sequence[str]) -> str:
    if not names:
        return " `timm.list_models()` lists them all."
    return " Did you mean " + " or ".join(f"'timm:{name}'" for name in names) + "?"


def _prefix_hint(backbone: str) -> str:
    if backbone.partition(".")[0] in timm.list_models():
        return f" Did you mean 'timm:{backbone}'?"
    return f" Did you mean 'hf:{backbone}'?" if "/" in backbone else ""


def _cannot_load(backbone: str, pretrained: bool, error: Exception) -> ValueError:
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    remedy = "Check the name and the connection, or give a local folder"
    remedy += ", or set `pretrained` to false to start from random weights." if pretrained else "."
    return ValueError(f"The backbone {backbone!r} can't be loaded: {lines[0].rstrip('.')}. {remedy}")
