"""``lightning-noisy audit`` and ``lightning-noisy apply``."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lightning_noisy.audit.apply_command import run_apply
from lightning_noisy.audit.auditing import audit_labels
from lightning_noisy.audit.label_audit import LabelAudit
from lightning_noisy.audit.report import write_report
from lightning_noisy.audit.wandb_table import log_suspicious_images
from lightning_noisy.cli_parser import AUDIT_COMMANDS, PROGRAM, OneSentenceErrors
from lightning_noisy.hub.card import plain_text
from lightning_noisy.hub.checkpoints import read_run_config
from lightning_noisy.launching import other_processes

SHOWN_PAIRS = 10
OF_THE_AUDIT = ("accelerator", "strategy", "devices", "num_nodes")
"""Options of the Trainer that say where it runs: of a fold's training they are those of the audit."""

OF_THE_TRAINING = (
    "max_epochs", "max_steps", "min_epochs", "min_steps", "precision", "gradient_clip_val", "gradient_clip_algorithm",
    "accumulate_grad_batches", "limit_train_batches", "deterministic", "enable_progress_bar",
)  # fmt: skip
"""Options of the Trainer that a fold is trained by as the fit was."""

TrainFold = Callable[[dict[str, Any], L.LightningDataModule, Path], L.LightningModule]


class AuditParser(OneSentenceErrors, LightningArgumentParser):
    """LightningCLI's parser, for which a user's mistake is one sentence."""


def run(arguments: Sequence[str], train_fold: TrainFold) -> None:
    """Parses the arguments, whose first is one of ``AUDIT_COMMANDS``, and does it.

    Args:
        arguments: As in the shell.
        train_fold: Trains the model of a fold: ``train_fold(config, datamodule, directory) -> model``.
    """
    command, *rest = arguments
    if command == "audit":
        _audit(rest, train_fold)
    else:
        run_apply(rest)


def kept_config(called: Mapping[str, Any]) -> dict[str, Any]:
    """What an audit needs to know of how a fit was called: primitives for its checkpoints, no loggers."""
    trainer = {name: value for name, value in called["trainer"].items() if name in OF_THE_TRAINING}
    callbacks = called["trainer"].get("callbacks")
    # Those that need a logger or write checkpoints elsewhere are of no use to a fold; others may hold secrets.
    trainer["callbacks"] = [
        callback
        for callback in (callbacks if isinstance(callbacks, list) else [])
        if callback["class_path"].startswith(("lightning.pytorch.callbacks.", "lightning_noisy."))
        and not any(word in callback["class_path"] for word in ("Checkpoint", "LearningRateMonitor"))
    ]
    return {
        "seed_everything": called.get("seed_everything"),
        "trainer": trainer,
        "model": called["model"],
        "data": called["data"],
    }


def _audit(arguments: Sequence[str], train_fold: TrainFold) -> None:
    config = _run_config(arguments)
    parser = _audit_parser(config.get("data"))
    options = parser.parse_args(list(arguments))
    if options.report_images < 1:
        raise ValueError(f"Expected argument `report_images` to be at least 1, but got {options.report_images}.")
    parts = parser.instantiate_classes(options)
    trainer = L.Trainer(**{**parts.trainer})
    fold = _fold_of(options, config, train_fold) if options.folds else None
    with other_processes(trainer):
        audit = audit_labels(
            options.ckpt_path, parts.data, options.output, trainer=trainer, folds=options.folds, train_fold=fold,
            probabilities=options.probabilities,
        )  # fmt: skip
    if trainer.is_global_zero:
        console = Console()
        show_audit(console, audit)
        if options.report:
            write_report(audit, audit.images, options.report_images)
        log_suspicious_images(trainer.loggers, audit)
        for path in sorted(audit.directory.iterdir()):
            console.print(str(path), markup=False, highlight=False, soft_wrap=True)


def _run_config(arguments: Sequence[str]) -> dict[str, Any]:
    """How the model was trained: said by ``--config``, else by the checkpoint."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config")
    first.add_argument("--ckpt_path")
    known, _ = first.parse_known_args(arguments)
    if known.ckpt_path and not Path(known.ckpt_path).expanduser().exists():
        raise ValueError(f"Expected argument `ckpt_path` to be a checkpoint, but {known.ckpt_path!r} does not exist.")
    if known.config is None:
        found = read_run_config(known.ckpt_path) if known.ckpt_path else {}
        if known.ckpt_path and not found and not any(word.startswith("--data") for word in arguments):
            raise ValueError(
                f"Expected argument `data.source` to be given: {known.ckpt_path!r} does not tell which data it was "
                "trained on. Give `--data.source` and what else the fit was given, or `--config` with its config.yaml."
            )
        return found
    try:
        called = yaml.safe_load(Path(known.config).read_text(encoding="utf-8"))
        return kept_config({"trainer": {}, "model": {}, **called})
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"Expected argument `config` to be the config.yaml of a fit, with a part `data`, but {known.config!r} "
            f"can't be read as one ({type(error).__name__}: {error})."
        ) from error


def _audit_parser(data: Mapping[str, Any] | None) -> AuditParser:
    parser = AuditParser(prog=f"{PROGRAM} audit", description=AUDIT_COMMANDS["audit"])
    add = parser.add_argument
    add("--config", type=str, help="The config.yaml of the fit: its data and, for folds, its training.")
    add("--ckpt_path", type=str, required=True, help="A checkpoint: a file, a folder, or FSDP shards.")
    add("--output", type=str, required=True, help="The folder of the audit; the same again goes on after a kill.")
    add("--report", type=bool, default=True, help="Whether to write report.html, a page to review the labels.")
    add("--report_images", type=int, default=1000, help="How many of the most suspicious images are on that page.")
    add("--folds", type=int, default=0, help="Train so many models, each for the images that it has not seen.")
    add("--probabilities", type=bool, default=False, help="Whether to keep the posterior of all classes too.")
    parser.add_lightning_class_args(L.LightningDataModule, "data", subclass_mode=True)
    parser.add_lightning_class_args(L.Trainer, "trainer")
    defaults = {"data": data or {"class_path": "lightning_noisy.NoisyImageDataModule"}}
    parser.set_defaults({**defaults, "trainer.logger": False, "trainer.enable_checkpointing": False})
    return parser


def _fold_of(options: Namespace, config: Mapping[str, Any], train_fold: TrainFold) -> Any:
    if not config.get("model"):
        raise ValueError(
            "Expected argument `config` to be given with `folds`: the checkpoint does not tell how it was trained. "
            "Give the config.yaml that the fit has left beside its logs."
        )
    where = {name: options.trainer[name] for name in OF_THE_AUDIT}
    data = yaml.safe_load(yaml.safe_dump(options.data.as_dict()))
    return partial(train_fold, {**config, "data": data, "trainer": {**config["trainer"], **where}})


def show_audit(console: Console, audit: LabelAudit) -> None:
    """Prints how many labels are wrong, class by class, and the pairs that are most often confused."""
    summary = audit.summary
    errors = summary.errors
    console.print(
        f"About {errors.value:.1%} of {summary.images} labels are wrong (between {errors.low:.1%} and "
        f"{errors.high:.1%}); {summary.issues:,} are flagged.",
        highlight=False,
    )
    table = Table("given label", title="Most confused", title_justify="left")
    table.add_column("should be", overflow="fold")
    table.add_column("images", justify="right")
    for pair in summary.pairs[:SHOWN_PAIRS]:
        names = (escape(plain_text(summary.class_names[label])) for label in (pair.given, pair.suggested))
        table.add_row(*names, f"{pair.count:,}")
    if summary.pairs:
        console.print(table)
