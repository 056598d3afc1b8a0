"""From what was chosen to a recipe: the settings of a fit, and the file with comments that say why."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from lightning_noisy.data.readers.base import Columns
from lightning_noisy.data.similar_classes import similar_names
from lightning_noisy.first_look.choosing import BACKBONE, Choice
from lightning_noisy.first_look.looking import FirstLook

CALLBACKS = "lightning.pytorch.callbacks."
COMMENT_COLUMN = 30


class Quoted(str):
    """A text of the user's: it is written in quotes and so stays a text, whatever it looks like."""


class _Dumper(yaml.SafeDumper):
    """Of PyYAML, with quotes around what is the user's."""


_Dumper.add_representer(Quoted, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


def recipe_config(look: FirstLook, choice: Choice, columns: Columns, folder: str) -> dict[str, Any]:
    """The settings of a fit.

    Args:
        look: At the data.
        choice: What fits them.
        columns: Of a table, as the user named them.
        folder: Where the run goes.
    """
    return {
        "seed_everything": 0,
        "trainer": _trainer(choice, folder),
        "model": _model(choice),
        "data": _data(look, choice, columns),
    }


def recipe_comments(look: FirstLook, choice: Choice) -> dict[str, str]:
    """What stands beside the settings, by section and name (``data.batch_size``)."""
    why = choice.reasons
    broken = sum(look.findings.not_decoded.values()) + sum(look.findings.not_opened.values())
    alike = " and ".join(map(repr, next(iter(similar_names(look.splits["train"].class_names)), [])))
    comments = {
        "trainer.precision": why.get("precision", ""),
        "trainer.devices": "a process each" if choice.gpus > 1 else "",
        "trainer.max_epochs": why.get("epochs", ""),
        "trainer.logger": "metrics.csv, and W&B: without a key its run is kept in files",
        "trainer.callbacks": _about_callbacks(choice),
        "model.backbone": "or timm:NAME, hf:NAME; a larger one is timm:vit_base_patch14_dinov2.lvd142m",
        "model.image_size": why["image_size"],
        "model.trainable_blocks": "the head alone; 2 would train the last two blocks too",
        "model.layer_decay": "of the learning rate, from each layer to the one below it",
        "model.optimizer": why.get("learning_rate", ""),
        "data.val_fraction": "held out: by them the layer sees what is learned by heart",
        "data.image_size": "the same for an audit",
        "data.batch_size": why.get("batch_size", "of one process"),
        "data.num_workers": "processes that read images, for each GPU",
        "data.on_broken": f"{broken:,} can't be read: they are left out and listed",
        "data.on_empty_class": "a class without images is left out",
        "data.merge_similar_classes": f"{alike} become one; false keeps them apart",
        "data.augmentation": "so that the network sees each image once" if choice.is_probe else "crops, flips, colours",
    }
    return {name: comment for name, comment in comments.items() if comment}


def recipe_text(config: Mapping[str, Any], comments: Mapping[str, str], heading: Sequence[str]) -> str:
    """The file.

    Args:
        config: What ``lightning-noisy fit --config`` is to read.
        comments: By section and name.
        heading: Lines at its top.
    """
    lines = [f"# {_plain(line)}" for line in heading]
    for section, settings in config.items():
        if not isinstance(settings, dict):
            lines += _dumped({section: settings})
            continue
        lines.append(f"{section}:")
        for name, value in settings.items():
            first, *rest = _dumped({name: value})
            comment = comments.get(f"{section}.{name}")
            first = f"  {first}" if comment is None else f"{'  ' + first:<{COMMENT_COLUMN}}  # {_plain(comment)}"
            lines += [first, *(f"  {line}" for line in rest)]
    return "\n".join(lines) + "\n"


def _dumped(entry: dict[str, Any]) -> list[str]:
    # Lines of any length: PyYAML would break a long text.
    dumped = yaml.dump(entry, Dumper=_Dumper, width=float("inf"), sort_keys=False, allow_unicode=True)
    return dumped.rstrip("\n").split("\n")


def _plain(text: str) -> str:
    """Without what would end a comment: no line break of any kind."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _trainer(choice: Choice, folder: str) -> dict[str, Any]:
    loggers = ("training.csv_log.NoisyCSVLogger", "training.loggers.NoisyWandbLogger")
    own = ["training.frozen_features.FrozenFeatures"] if choice.is_probe else []
    own += ["audit.label_refinement.LabelRefinement"] if choice.refines else []
    settings = {
        "accelerator": "gpu" if choice.gpus else None,
        "devices": choice.gpus or None,
        "strategy": "ddp" if choice.gpus > 1 else None,
        "precision": choice.precision,
        "max_epochs": choice.epochs,
        "accumulate_grad_batches": choice.accumulate if choice.accumulate > 1 else None,
        "gradient_clip_val": 1.0,
        "log_every_n_steps": 20,
        "default_root_dir": Quoted(folder),
        "logger": [_part(f"lightning_noisy.{logger}", save_dir=Quoted(folder)) for logger in loggers],
        "callbacks": [
            _part("lightning.pytorch.callbacks.LearningRateMonitor"),
            _part("lightning_noisy.training.checkpoint_io.LastCheckpoint", dirpath=Quoted(f"{folder}/checkpoints")),
            *(_part(f"lightning_noisy.{callback}") for callback in own),
        ],
    }
    return {name: value for name, value in settings.items() if value is not None}


def _part(class_path: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": class_path, "init_args": arguments} if arguments else {"class_path": class_path}


def _about_callbacks(choice: Choice) -> str:
    if choice.is_probe:
        return "FrozenFeatures: the network looks at each image once, not once an epoch"
    if choice.refines:
        return "LabelRefinement: the pretrained features say first what each label is worth"
    return ""


def _model(choice: Choice) -> dict[str, Any]:
    depth = {"trainable_blocks": 0} if choice.is_probe else {"layer_decay": 0.75}
    weight_decay = 1.0 if choice.is_probe else 0.05
    return {
        "backbone": BACKBONE,
        "image_size": choice.image_size,
        **depth,
        "optimizer": _part("torch.optim.AdamW", lr=choice.learning_rate, weight_decay=weight_decay),
        "lr_warmup_steps": choice.warmup_steps,
    }


def _data(look: FirstLook, choice: Choice, columns: Columns) -> dict[str, Any]:
    findings = look.findings
    has_broken = any([*findings.not_opened.values(), *findings.not_decoded.values()])
    named = {"label_column": columns.label, "image_column": columns.image, "clean_label_column": columns.clean_label}
    settings = {
        "source": Quoted(findings.source),
        **{name: Quoted(column) for name, column in named.items() if column},
        "val_fraction": None if "val" in look.splits else 0.1,
        "image_size": choice.image_size,
        "batch_size": choice.batch_size,
        "num_workers": choice.workers,
        "augmentation": {"no_aug": True} if choice.is_probe else {"auto_augment": "rand-m9-mstd0.5"},
        "on_broken": "skip" if has_broken else None,
        "on_empty_class": "skip" if look.has_empty_class else None,
        "merge_similar_classes": True if similar_names(look.splits["train"].class_names) else None,
    }
    return {name: value for name, value in settings.items() if value is not None}
