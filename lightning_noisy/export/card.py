"""The model card: metadata that the Hub reads, and a text that people read, both from the record of the training."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from lightning_noisy import models
from lightning_noisy.export.card_options import CardOptions, is_repo_id
from lightning_noisy.export.noise_estimate import NoiseEstimate
from lightning_noisy.export.snippets import (
    timm_adapter_snippet,
    timm_snippet,
    transformers_adapter_snippet,
    transformers_snippet,
)
from lightning_noisy.export.trained_model import TrainedModel
from lightning_noisy.run_record import CARD_TAG, as_numbers
from lightning_noisy.utils.text import plain_text

MOST_CLASSES = 50
MOST_ROWS = 20
"""Characters of a text of the user's, a class name for instance, that the card shows."""

_SPECIAL = re.compile(r"([\\`*_{}\[\]()#|~$!@])")
OTHER_LABELS = "the labels of the evaluation data"
_AGAINST = {"clean": "checked labels", "noisy": "the given, partly wrong labels"}


def render_card(
    trained: TrainedModel,
    options: CardOptions,
    estimate: NoiseEstimate | None,
    folder_name: str,
    has_curves: bool = False,
) -> str:
    """The whole README: YAML between dashes, then Markdown in which texts of the user's are escaped.

    Args:
        trained: The model and the record of its training.
        options: What the user says of it.
        estimate: The noise.
        folder_name: For the title where there is no better one.
        has_curves: Whether ``training_curves.png`` lies beside it.
    """
    record, layer = trained.record, trained.noise_layer
    metrics = as_numbers({**record.metrics, **(options.metrics or {})})
    replaced = ".original_module."  # the head as it was before an adapter's
    parameters = sum(p.numel() for name, p in trained.clean_model.named_parameters() if replaced not in name)
    timm_model = trained.timm_model
    channels = models.resolve_data_config(timm_model or trained.clean_model)["input_size"][0]
    model_name = options.model_name or (options.repo_id or folder_name).rpartition("/")[2]
    kept = models.adapter_config(trained.clean_model) is not None
    base = base_on_hub(trained, options) if kept else _base_model(trained, options)
    values = {
        "title": model_name,
        "description": options.description,
        "class_names": trained.class_names,
        "most_classes": MOST_CLASSES,
        "most_rows": MOST_ROWS,
        "base_model": base,
        "is_adapter": kept,
        "architecture": _architecture(trained),
        "parameters": f"{parameters / 1e6:.1f} million" if parameters > 1e5 else f"{parameters:,}",
        "library": _library(trained, kept),
        "noise_config": None if layer is None else layer.config,
        "repo_id": options.repo_id,
        "timm_snippet": _timm_snippet(trained, options, base if kept else None, channels),
        "transformers_snippet": _transformers_snippet(trained, options, base if kept else None, channels),
        "load_name": options.repo_id or ".",
        "epochs": f"{record.epochs:g}" if record.epochs else None,
        "metrics": [
            {"name": name, "value": value, "against": _AGAINST.get(name.rpartition("_")[2], OTHER_LABELS)}
            for name, value in metrics.items()
            if not name.startswith(("train/", "noise/"))
        ],
        "has_curves": has_curves,
        "estimate": estimate,
        "known_rate": record.data.get("label_noise_rate"),
        "synthetic_noise": record.data.get("noise"),
        "facts": _facts(trained),
    }
    environment = markdown_environment("lightning_noisy.export")
    body = environment.get_template("model_card.md.jinja").render(values)
    return f"---\n{card_metadata(trained, options, metrics, model_name).to_yaml()}\n---\n\n{body}"


def card_metadata(
    trained: TrainedModel, options: CardOptions, metrics: Mapping[str, float], model_name: str
) -> ModelCardData:
    """What the Hub indexes."""
    kept = models.adapter_config(trained.clean_model) is not None
    library = _library(trained, kept)
    tags = ["image-classification", *(["timm"] if library == "timm" else [])]
    tags += ["peft"] if kept else []
    tags += [] if kept and library == "timm" else ["transformers"]
    tags += [CARD_TAG, *(["noisy-labels"] if trained.noise_layer is not None else [])]
    hub_id = trained.record.data.get("hub_id")
    datasets = list(options.datasets or ([hub_id] if hub_id else []))
    data_name = plain_text(str(trained.record.data.get("name") or "the training data"))
    results = [
        EvalResult(
            task_type="image-classification",
            task_name="Image Classification",
            dataset_type=datasets[0] if datasets else "imagefolder",
            dataset_name=datasets[0] if datasets else data_name,
            dataset_split=_split(name),
            metric_type="accuracy",
            metric_name=f"accuracy against {_AGAINST.get(name.rpartition('_')[2], OTHER_LABELS)}",
            metric_value=round(float(value), 6),
        )
        for name, value in metrics.items()
        if "accuracy" in name and not name.startswith(("train/", "noise/"))
    ]
    return ModelCardData(
        license=options.license,
        library_name="peft" if kept else library,
        pipeline_tag="image-classification",
        base_model=base_on_hub(trained, options) if kept else _base_model(trained, options),
        base_model_relation="adapter" if kept else None,
        datasets=datasets or None,
        tags=tags,
        model_name=plain_text(model_name) if results else None,
        eval_results=results or None,
        metrics=["accuracy"] if results else None,
    )


def markdown_environment(package: str) -> Environment:
    """For a package's templates of Markdown, with the filters ``text`` and ``python``."""
    environment = Environment(
        loader=PackageLoader(package, "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # it is Markdown: `text` escapes
        keep_trailing_newline=True,
    )
    environment.filters |= {"text": markdown_text, "python": json.dumps}
    return environment


def markdown_text(value: Any) -> str:
    """A text of the user's for a line of Markdown or a cell of a table: no HTML, no markup, no line break."""
    escaped = plain_text(str(value)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", escaped).replace("://", r"\://").replace("www.", r"www\.")


def base_on_hub(trained: TrainedModel, options: CardOptions) -> str:
    """The repository of the weights under an adapter that is kept apart.

    Raises:
        ValueError: If it is not known: a folder of this machine is nowhere else.
    """
    named = getattr(models.adapter_config(trained.clean_model), "base_model_name_or_path", None)
    for base in (_base_model(trained, options), named):
        if base and is_repo_id(base) and not Path(base).exists():
            return base
    raise ValueError(
        "Expected a model from the Hub under an adapter that is kept apart (`adapter` is 'keep'), but it is not known "
        "which it is. Name its repository as `base_model`, or let the adapter be merged (`adapter` 'merge')."
    )


def _library(trained: TrainedModel, is_adapter: bool) -> str:
    """A timm model that transformers has wrapped is timm's, unless an adapter has the wrapper's names of weights."""
    is_timm = trained.timm_model is not None
    return "timm" if is_timm and not (is_adapter and models.is_transformers(trained.clean_model)) else "transformers"


def _timm_snippet(trained: TrainedModel, options: CardOptions, base: str | None, channels: int) -> str | None:
    if _library(trained, base is not None) != "timm":
        return None
    if base is not None:
        return timm_adapter_snippet(options.repo_id, base, channels)
    return timm_snippet(options.repo_id, channels)


def _transformers_snippet(trained: TrainedModel, options: CardOptions, base: str | None, channels: int) -> str | None:
    if base is None:
        return transformers_snippet(options.repo_id, channels, _forward_options(trained))
    if _library(trained, True) == "timm":
        return None
    return transformers_adapter_snippet(options.repo_id, base, channels, _forward_options(trained))


def _base_model(trained: TrainedModel, options: CardOptions) -> str | None:
    return options.base_model or trained.record.base_model or models.base_model_of(trained.clean_model)


def _architecture(trained: TrainedModel) -> str:
    if (timm_model := trained.timm_model) is not None:
        return str(timm_model.pretrained_cfg.get("architecture"))
    return type(trained.clean_model).__name__


def _forward_options(trained: TrainedModel) -> dict[str, Any]:
    if trained.timm_model is not None:
        return {}
    size = models.resolve_data_config(trained.clean_model)["input_size"]
    return models.forward_options(trained.clean_model, torch.empty(1, *size, device="meta"))


def _split(name: str) -> str | None:
    split = re.match(r"(test|val|eval)", name)
    return {"test": "test", "val": "validation", "eval": "validation"}[split.group()] if split else None


def _facts(trained: TrainedModel) -> dict[str, str]:
    """The rows of the table about the training, in the order of the card."""
    record, layer = trained.record, trained.noise_layer
    data = record.data
    facts: dict[str, Any] = {
        "data": data.get("name"),
        "training images": data.get("train_images"),
        "noise that was added": data.get("noise"),
        "epochs": f"{record.epochs:g}" if record.epochs else None,
        "optimizer steps": record.steps or None,
    }
    if record.adapter:
        facts["adapter"] = _adapter_in_words(record.adapter)
    if layer is not None:
        config = layer.config
        where = f", dropout {config.dropout} on its {config.dropout_on}" if config.noise_type == "softmax" else ""
        length = f"{layer.warmup_epochs} epochs of plain cross-entropy before it acted"
        how = "set to the counted matrix at each epoch" if config.follows_counts else "learned"
        facts["noise layer"] = f"{config.noise_type}{where}, {how}, {length}, {layer.share:.0%} of the loss at the end"
    facts |= {name.replace("_", " "): value for name, value in record.hyperparameters.items()}
    hardware = f"{record.processes} × {record.hardware}" if record.processes > 1 else record.hardware
    facts |= {
        "hardware": hardware,
        "training time": _duration(record.seconds) if record.seconds else None,
        "versions": ", ".join(f"{name} {number}" for name, number in record.versions.items()),
    }
    return {name: str(value) for name, value in facts.items() if value not in (None, "")} or {
        "record": "none: this model brought no record of its training"
    }


def _adapter_in_words(adapter: Mapping[str, Any]) -> str:
    rank = f" of rank {adapter['rank']}" if adapter.get("rank") else ""
    return f"{adapter.get('kind')}{rank}, {adapter.get('trained_parameters', 0):,} trained parameters with the head"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
