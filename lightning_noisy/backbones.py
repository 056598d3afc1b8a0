"""One way to build, inspect and save a timm or transformers image classifier."""

import copy
import difflib
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_model
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, resolve_model_data_config
from timm.data import resolve_data_config as resolve_timm_data_config
from timm.models import get_model_args, resolve_model_input_args
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
_SOURCE_KEYS = ("file", "url", "source", "state_dict", "hf_hub_filename")


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
        model = backbone if isinstance(backbone, nn.Module) else _build_from_spec(backbone)
        _adapt_head(model, num_classes, class_names)
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

    ``None`` for one's own module, and for a model whose arguments can't be told.
    """
    source: Any = model
    if _is_transformers(model):
        spec = {"library": "transformers", "config": source.config.to_dict()}
        spec["processor"] = getattr(model, _PROCESSOR, None)
    elif _is_timm(model):
        spec = {
            "library": "timm",
            "architecture": source.pretrained_cfg.get("architecture"),
            "kwargs": {**getattr(source, "_model_args", {}), **get_model_args(source)},  # only the first has drop rates
            "pretrained_cfg": {key: value for key, value in source.pretrained_cfg.items() if key not in _SOURCE_KEYS},
        }
    else:
        return None
    spec = _primitives({**spec, "data_config": resolve_data_config(model)})
    return spec if _gives_same_parameters(spec, model) else None


def clean_logits(model: nn.Module, images: Tensor) -> Tensor:
    """(B, 3, H, W) images -> (B, K) logits, from a model that returns a tensor or an output with ``logits``."""
    options = {"interpolate_pos_encoding": True} if _needs_interpolation(model, images) else {}
    output = model(images, **options)
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
    config = {**DEFAULT_DATA_CONFIG, **(config or {})}
    return {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}


def save_backbone(model: nn.Module, directory: str | Path, class_names: Sequence[str] | None = None) -> None:
    """Writes the model in its library's own format, weights as safetensors.

    timm: for ``timm.create_model("local-dir:DIR", pretrained=True)``. transformers: for
    ``AutoModelForImageClassification.from_pretrained(DIR)``. One's own module: ``model.safetensors``.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if _is_transformers(model):
        _save_transformers(model, directory, class_names)
    elif _is_timm(model):
        _save_timm(model, directory, class_names)
    else:
        save_model(model, str(directory / "model.safetensors"))
        _write_json(directory / "class_names.json", list(class_names or []))


def _build_timm(
    name: str, num_classes: int, pretrained: bool, image_size: int | None, kwargs: dict[str, Any]
) -> nn.Module:
    _check_timm_name(name)
    with _loading(f"timm:{name}", pretrained):
        if image_size is not None:
            resolved = resolve_model_input_args(name, {"img_size": image_size}, **kwargs)
            kwargs |= {"img_size": resolved["img_size"]} if "img_size" in resolved else {}
        model: Any = timm.create_model(name, pretrained=pretrained, num_classes=num_classes, **kwargs)
    head = model.get_classifier() if hasattr(model, "get_classifier") else None
    if all(part is None or isinstance(part, nn.Identity) for part in (head if isinstance(head, tuple) else [head])):
        raise ValueError(f"Expected argument `backbone` to name a classifier, but 'timm:{name}' has no head.")
    return model


def _build_transformers(
    name: str, num_classes: int, class_names: Sequence[str] | None, pretrained: bool, kwargs: dict[str, Any]
) -> nn.Module:
    from transformers import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, AutoConfig, AutoModelForImageClassification

    folder = Path(name).expanduser()
    if name.startswith((".", "/", "~")) and not folder.is_dir():
        raise ValueError(f"Expected argument `backbone` to name a model, but the folder {name!r} does not exist.")
    source = str(folder) if folder.is_dir() else name
    labels = _label_maps(num_classes, class_names)
    with _loading(f"hf:{name}", pretrained):
        config, unknown = AutoConfig.from_pretrained(source, **labels, **kwargs, return_unused_kwargs=True)
    if unknown:
        raise ValueError(f"Argument `backbone_kwargs` does not fit 'hf:{name}': its config has no {sorted(unknown)}.")
    if type(config) not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        raise ValueError(
            f"Expected argument `backbone` to name an image classifier, but 'hf:{name}' is a {config.model_type!r} "
            "model, for which transformers has no image classification head."
        )
    with _loading(f"hf:{name}", pretrained), _errors_only():
        if pretrained:
            model = AutoModelForImageClassification.from_pretrained(source, config=config, ignore_mismatched_sizes=True)
        else:
            model = AutoModelForImageClassification.from_config(config)
    setattr(model, _PROCESSOR, _read_processor(source))
    return model


def _build_from_spec(spec: Mapping[str, Any]) -> nn.Module:
    model: Any
    if spec.get("library") == "timm" and {"architecture", "kwargs", "pretrained_cfg"} <= spec.keys():
        model = timm.create_model(
            spec["architecture"], pretrained=False, pretrained_cfg=dict(spec["pretrained_cfg"]), **spec["kwargs"]
        )
    elif spec.get("library") == "transformers" and "config" in spec:
        from transformers import CONFIG_MAPPING, AutoModelForImageClassification

        config = copy.deepcopy(dict(spec["config"]))
        model = AutoModelForImageClassification.from_config(CONFIG_MAPPING[config["model_type"]].from_dict(config))
        setattr(model, _PROCESSOR, spec.get("processor"))
    else:
        raise ValueError(
            "Expected argument `backbone` to be a dict that `backbone_spec` returned, whose `library` is 'timm' or "
            f"'transformers', but got {dict(spec)!r}."
        )
    setattr(model, _DATA_CONFIG, spec.get("data_config"))
    return model


def _adapt_head(model: Any, num_classes: int, class_names: Sequence[str] | None) -> None:
    if _is_timm(model) and model.num_classes != num_classes:
        model.reset_classifier(num_classes)
    if not _is_transformers(model):
        return
    if model.config.num_labels != num_classes:
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
    _set_labels(model, num_classes, class_names)


def _set_labels(model: Any, num_classes: int, class_names: Sequence[str] | None) -> None:
    for key, value in _label_maps(num_classes, class_names).items():
        setattr(model.config, key, value)


def _label_maps(num_classes: int, class_names: Sequence[str] | None) -> dict[str, Any]:
    names = list(class_names or map(str, range(num_classes)))
    label2id = {name: label for label, name in enumerate(names)}
    return {"id2label": dict(enumerate(names)), "label2id": label2id, "num_labels": num_classes}


def _read_processor(name: str) -> dict[str, Any] | None:
    from transformers import AutoImageProcessor

    try:
        return json.loads(AutoImageProcessor.from_pretrained(name).to_json_string())
    except (OSError, ValueError, ImportError):  # a folder without one
        return None


def _transformers_data_config(model: Any) -> dict[str, Any]:
    """From the image processor that came with the model, else from its config."""
    if hasattr(model.config, "pretrained_cfg"):  # a timm model in transformers' clothes
        return resolve_timm_data_config(pretrained_cfg=model.config.pretrained_cfg)
    processor: dict[str, Any] = getattr(model, _PROCESSOR, None) or {}
    mean, std = processor.get("image_mean") or (0.5,) * 3, processor.get("image_std") or (0.5,) * 3
    if not processor.get("do_normalize", True):
        mean, std = (0.0,) * 3, (1.0,) * 3
    size = processor.get("size") or {}
    resized = _side(size)
    cropped = _side(processor.get("crop_size")) if processor.get("do_center_crop") else None
    side = cropped or resized or _config_image_size(model) or DEFAULT_DATA_CONFIG["input_size"][1]
    share = cropped / resized if cropped and resized else 1.0
    return {
        "input_size": (3, side, side),
        "interpolation": _RESAMPLING.get(processor.get("resample", 3), "bicubic"),
        "mean": tuple(mean),
        "std": tuple(std),
        "crop_pct": processor.get("crop_pct") or share,
        "crop_mode": "squash" if size.get("height") else "center",
    }


def _side(size: Any) -> int | None:
    if isinstance(size, Mapping):
        size = size.get("height") or size.get("shortest_edge")
    return int(size) if isinstance(size, int | float) else None


def _config_image_size(model: Any) -> int | None:
    config = getattr(model.config, "vision_config", model.config)
    size = getattr(config, "image_size", None)
    return size[0] if isinstance(size, list | tuple) else size


def _needs_interpolation(model: Any, images: Tensor) -> bool:
    side = _config_image_size(model) if _is_transformers(model) else None
    if side is None or tuple(images.shape[-2:]) == (side, side):
        return False
    reader = getattr(model, "vision_model", model)
    return "interpolate_pos_encoding" in inspect.signature(reader.forward).parameters


def _save_transformers(model: Any, directory: Path, class_names: Sequence[str] | None) -> None:
    if class_names:
        _set_labels(model, len(class_names), class_names)
    model.save_pretrained(directory)
    if (processor := getattr(model, _PROCESSOR, None)) is not None:
        _write_json(directory / "preprocessor_config.json", processor)


def _save_timm(model: Any, directory: Path, class_names: Sequence[str] | None) -> None:
    timm.models.save_for_hf(
        model,
        str(directory),
        model_config={"label_names": list(class_names)} if class_names else None,
        data_config=resolve_data_config(model),
        safe_serialization=True,
    )
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["model_args"].pop("num_classes", None)  # transformers gives it twice otherwise; timm reads the one outside
    _write_json(path, config)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")


def _gives_same_parameters(spec: dict[str, Any], model: nn.Module) -> bool:
    try:
        with torch.device("meta"):
            rebuilt = _build_from_spec(spec)
    except Exception:  # arguments that are no primitives raise many kinds
        return False
    ours, theirs = model.state_dict(), rebuilt.state_dict()
    return ours.keys() == theirs.keys() and all(ours[key].shape == theirs[key].shape for key in ours)


def _primitives(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _primitives(item) for key, item in value.items() if key != "_name_or_path"}
    if isinstance(value, list | tuple):
        return [_primitives(item) for item in value]
    if value is None or isinstance(value, bool):
        return value
    return next((kind(value) for kind in (int, float) if isinstance(value, kind)), str(value))


def _is_timm(model: nn.Module) -> bool:
    return hasattr(model, "pretrained_cfg") and hasattr(model, "reset_classifier")


def _is_transformers(model: Any) -> bool:
    return hasattr(model, "config") and hasattr(model, "save_pretrained")


def _check_timm_name(name: str) -> None:
    scheme, _, rest = name.partition(":")
    if scheme == "local-dir" and not (Path(rest) / "config.json").is_file():
        raise ValueError(f"Expected argument `backbone` to name a folder with a config.json, but {rest!r} has none.")
    if rest:
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


@contextmanager
def _loading(backbone: str, pretrained: bool) -> Iterator[None]:
    """Turns whatever goes wrong while a backbone is loaded into one sentence that says what to do."""
    try:
        yield
    except TypeError as error:
        raise ValueError(f"Argument `backbone_kwargs` does not fit {backbone!r}: {error}.") from error
    except Exception as error:  # the network, the Hub and files raise many kinds
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        cause = " ".join(lines[: 2 if lines[0].endswith(":") else 1]).rstrip(". ")
        remedy = "Check the name and the connection, or give a local folder"
        remedy += ", or set `pretrained` to false to start from random weights." if pretrained else "."
        raise ValueError(f"The backbone {backbone!r} can't be loaded: {cause}. {remedy}") from error


@contextmanager
def _errors_only() -> Iterator[None]:
    """Keeps transformers from reporting at length that the head is new, which is meant."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
