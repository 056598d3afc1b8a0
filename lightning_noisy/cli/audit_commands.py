"""``lightning-noisy audit`` and ``lightning-noisy apply``."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any

import lightning.pytorch as L
import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lightning_noisy.audit.judging.by_features import FOLDS, audit_by_features
from lightning_noisy.audit.judging.by_model import audit_labels
from lightning_noisy.audit.label_audit import LabelAudit
from lightning_noisy.audit.report.page import write_report
from lightning_noisy.audit.report.wandb_table import log_suspicious_images
from lightning_noisy.cli.apply_command import run_apply
from lightning_noisy.cli.kept_config import kept_config
from lightning_noisy.cli.launching import other_processes
from lightning_noisy.cli.parser import AUDIT_COMMANDS, OneSentenceErrors
from lightning_noisy.export.checkpoints import read_run_config
from lightning_noisy.features import extract_features
from lightning_noisy.features.table import FEATURE_FILES
from lightning_noisy.utils import PROGRAM
from lightning_noisy.utils.text import plain_text

SHOWN_PAIRS = 10
DATA_MODULE = "lightning_noisy.NoisyImageDataModule"
BACKBONE_HELP = "a pretrained network, timm:NAME, timm:local-dir:DIR or hf:REPO_OR_DIR."
PRETRAINED_HELP = "Whether to load the backbone's weights; features of random ones mean little."
OF_THE_AUDIT = ("accelerator", "strategy", "devices", "num_nodes")
"""Options of the Trainer that say where it runs: of a fold's training they are those of the audit."""

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
    elif command == "features":
        _features(rest)
    else:
        run_apply(rest)


def _audit(arguments: Sequence[str], train_fold: TrainFold) -> None:
    config = _run_config(arguments)
    parser = _audit_parser(config.get("data"))
    options = parser.parse_args(list(arguments))
    _check_options(options)
    parts = parser.instantiate_classes(options)
    trainer = _trainer(parts.trainer, options.output)
    with other_processes(trainer):
        if options.backbone:
            audit = audit_by_features(
                options.backbone, parts.data, options.output, trainer=trainer, features=options.features,
                folds=FOLDS if options.folds is None else options.folds, probabilities=options.probabilities,
                pretrained=options.pretrained,
            )  # fmt: skip
        else:
            fold = _fold_of(options, config, train_fold) if options.folds else None
            audit = audit_labels(
                options.ckpt_path, parts.data, options.output, trainer=trainer, folds=options.folds or 0,
                train_fold=fold, probabilities=options.probabilities,
            )  # fmt: skip
    if trainer.is_global_zero:
        console = Console()
        show_audit(console, audit)
        if options.report:
            write_report(audit, audit.images, options.report_images)
        log_suspicious_images(trainer.loggers, audit)
        for path in sorted(audit.directory.iterdir()):
            console.print(str(path), markup=False, highlight=False, soft_wrap=True)
        _tell_next(console, audit, has_page=options.report)


def _trainer(arguments: Mapping[str, Any], output: str) -> L.Trainer:
    """What is told of the images, such as those that are broken, goes beside what they are judged by."""
    return L.Trainer(**{**arguments, "default_root_dir": arguments["default_root_dir"] or output})


def _tell_next(console: Console, audit: LabelAudit, has_page: bool) -> None:
    if audit.summary.caution or not audit.summary.issues:
        return
    where, page = quote(str(audit.directory)), audit.directory / "report.html"
    decide = f"decide in {page}, and " if has_page else ""
    for line in (
        f"\nNext: {decide}write a table with corrected labels",
        f"  {PROGRAM} apply --audit {where} --policy relabel --output cleaned.parquet",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _check_options(options: Namespace) -> None:
    if options.report_images < 1:
        raise ValueError(f"Expected argument `report_images` to be at least 1, but got {options.report_images}.")
    if bool(options.ckpt_path) == bool(options.backbone):
        both = "both" if options.ckpt_path else "neither"
        raise ValueError(
            "Expected either argument `ckpt_path`, a model that was trained on these labels, or `backbone`, a "
            f"pretrained one that was not (as in `--backbone timm:resnet50.a1_in1k`), but got {both}."
        )
    if options.features and not options.backbone:
        raise ValueError(
            "Expected argument `features` to be given with `backbone` alone: a checkpoint looks at the images."
        )


def _features(arguments: Sequence[str]) -> None:
    parser = AuditParser(prog=f"{PROGRAM} features", description=AUDIT_COMMANDS["features"])
    parser.add_argument("--config", action="config", help="A YAML file with these options.")
    parser.add_argument("--backbone", type=str, required=True, help=BACKBONE_HELP)
    parser.add_argument("--pretrained", type=bool, default=True, help=PRETRAINED_HELP)
    parser.add_argument(
        "--output", type=str, required=True, help="The folder; the same command resumes it after a kill."
    )
    _add_data_and_trainer(parser, None)
    options = parser.parse_args(list(arguments))
    parts = parser.instantiate_classes(options)
    trainer = _trainer(parts.trainer, options.output)
    with other_processes(trainer):
        found = extract_features(
            options.backbone, parts.data, options.output, trainer=trainer, pretrained=options.pretrained
        )
    if trainer.is_global_zero:
        rows, size = found.values.shape
        console = Console()
        console.print(f"{rows:,} images, {size:,} features each:", highlight=False)
        for name in FEATURE_FILES:
            console.print(str(Path(options.output) / name), markup=False, highlight=False, soft_wrap=True)


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
    add("--ckpt_path", type=str | None, default=None, help="A checkpoint: a file, a folder, or FSDP shards.")
    add("--backbone", type=str | None, default=None, help="Without a checkpoint: " + BACKBONE_HELP)
    add("--pretrained", type=bool, default=True, help=PRETRAINED_HELP)
    add("--features", type=str | None, default=None, help="Where the backbone's features are or are to be kept.")
    add("--output", type=str, required=True, help="The folder of the audit; the same command resumes it after a kill.")
    add("--report", type=bool, default=True, help="Whether to write report.html, a page to review the labels.")
    add("--report_images", type=int, default=1000, help="How many of the most suspicious images are on that page.")
    add("--folds", type=int | None, default=None, help="Train this many models, each for images that it has not seen.")
    add("--probabilities", type=bool, default=False, help="Whether to keep the posterior of all classes too.")
    _add_data_and_trainer(parser, data)
    return parser


def _add_data_and_trainer(parser: AuditParser, data: Mapping[str, Any] | None) -> None:
    parser.add_lightning_class_args(L.LightningDataModule, "data", subclass_mode=True)
    parser.add_lightning_class_args(L.Trainer, "trainer")
    # A recipe, unlike the config.yaml of its fit, need not name the class.
    given = data if data and "class_path" in data else {"class_path": DATA_MODULE, "init_args": dict(data or {})}
    parser.set_defaults({"data": given, "trainer.logger": False, "trainer.enable_checkpointing": False})


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
    if summary.caution:
        console.print(escape(summary.caution), style="bold yellow", highlight=False)
    console.print(
        f"About {errors.value:.1%} of {summary.images} labels are wrong (between {errors.low:.1%} and "
        f"{errors.high:.1%}); {summary.issues:,} are flagged.",
        highlight=False,
    )
    for sentence in summary.findings:
        console.print(sentence, highlight=False)
    table = Table("given label", title="Most confused", title_justify="left")
    table.add_column("should be", overflow="fold")
    table.add_column("images", justify="right")
    for pair in summary.pairs[:SHOWN_PAIRS]:
        names = (escape(plain_text(summary.class_names[label])) for label in (pair.given, pair.suggested))
        table.add_row(*names, f"{pair.count:,}")
    if summary.pairs:
        console.print(table)
