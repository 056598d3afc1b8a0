"""Image classifiers by timm: by name, from the Hub, from a folder, and back into one."""

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
from timm.models import resolve_model_input_args
from timm.models._hub import save_config_for_hf
from torch import nn

from lightning_noisy.models.kinds import BASE_MODEL
from lightning_noisy.models.loading import loading


def build_timm(
    name: str, num_classes: int, pretrained: bool, image_size: int | None, kwargs: dict[str, Any]
) -> nn.Module:
    """``timm.create_model`` with checked arguments, and a classification head."""
    _check_timm_name(name)
    with loading(f"timm:{name}", pretrained):
        if image_size is not None:
            resolved = resolve_model_input_args(name, {"img_size": image_size}, **kwargs)
            kwargs |= {"img_size": resolved["img_size"]} if "img_size" in resolved else {}
        model: Any = timm.create_model(name, pretrained=pretrained, num_classes=num_classes, **kwargs)
    head = model.get_classifier() if hasattr(model, "get_classifier") else None
    if all(part is None or isinstance(part, nn.Identity) for part in (head if isinstance(head, tuple) else [head])):
        raise ValueError(f"Expected argument `backbone` to name a classifier, but 'timm:{name}' has no head.")
    if pretrained:
        setattr(model, BASE_MODEL, hub_name(name, model.pretrained_cfg))
    return model


def save_timm(model: Any, directory: Path, class_names: Sequence[str] | None, data_config: Mapping[str, Any]) -> None:
    """``timm.models.save_for_hf`` as safetensors, in a form that transformers reads too."""
    timm.models.save_for_hf(model, str(directory), **_config_options(class_names, data_config), safe_serialization=True)
    _drop_num_classes(directory / "config.json")


def save_timm_config(
    model: Any, directory: Path, class_names: Sequence[str] | None, data_config: Mapping[str, Any]
) -> None:
    """The ``config.json`` of :func:`save_timm` alone."""
    path = directory / "config.json"
    save_config_for_hf(model, str(path), **_config_options(class_names, data_config))
    _drop_num_classes(path)


def _config_options(class_names: Sequence[str] | None, data_config: Mapping[str, Any]) -> dict[str, Any]:
    model_config = {"label_names": list(class_names)} if class_names else None
    return {"model_config": model_config, "data_config": dict(data_config)}


def _drop_num_classes(path: Path) -> None:
    """Transformers would give it to the model twice; timm reads the one outside of ``model_args``."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config["model_args"].pop("num_classes", None)
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")


def adopt_pretrained_cfg(timm_model: Any, wrapper: Any) -> None:
    """Gives a timm model that transformers built what the wrapper's config says of it (licence, mean and the like)."""
    known = getattr(wrapper.config, "pretrained_cfg", None) or {}
    kept = {key: value for key, value in known.items() if key not in ("num_classes", "label_names")}
    timm_model.pretrained_cfg = {**timm_model.pretrained_cfg, **kept}


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


def hub_name(name: str, pretrained_cfg: Mapping[str, Any]) -> str | None:
    """The repository on the Hub from which ``timm.create_model(name, pretrained=True)`` takes its weights, if any."""
    scheme, _, rest = name.partition(":")
    if rest:
        return rest if scheme in ("hf-hub", "hf_hub") else None
    hub_id = str(pretrained_cfg.get("hf_hub_id") or "")
    tag = pretrained_cfg.get("tag")
    named = f"{pretrained_cfg.get('architecture')}.{tag}" if tag else str(pretrained_cfg.get("architecture"))
    return hub_id + named if hub_id.endswith("/") else hub_id or None
