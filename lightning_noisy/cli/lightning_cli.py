"""The console script ``lightning-noisy``: LightningCLI's fit, validate, test, predict, and what comes after a fit."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException
from torch.distributed import DistNetworkError

from lightning_noisy._version import __version__
from lightning_noisy.cli.kept_config import kept_config
from lightning_noisy.cli.launching import launching_sentence, other_processes, redirect_rank_output
from lightning_noisy.cli.parser import AUDIT_COMMANDS, HUB_COMMANDS, OneSentenceErrors, mistakes_in_one_sentence
from lightning_noisy.cli.upstream_messages import (
    format_own_warnings,
    silence_bars_of_transformers,
    silence_upstream_messages,
)
from lightning_noisy.hub import PushError
from lightning_noisy.training.callbacks.run_files import PredictionFile, RunFiles
from lightning_noisy.training.callbacks.run_recorder import CLI_CONFIG_KEY
from lightning_noisy.training.checkpoint_io import LastCheckpoint
from lightning_noisy.training.loggers.wandb_runs import recipe_name
from lightning_noisy.utils import PROGRAM

DESCRIPTION = (
    "Fine-tune an image classifier on partly wrong labels and keep a clean model. More commands work on what a fit has "
    f"left: `{PROGRAM} audit --help` finds the labels that are wrong and `{PROGRAM} apply --help` corrects them, "
    f"`{PROGRAM} noise --help` tells how many they are, `{PROGRAM} export --help` and `{PROGRAM} push --help` publish "
    "the model."
)
DEFAULT_SEED = 0


class SaveFitConfig(SaveConfigCallback):
    """Writes ``config.yaml`` beside the logs of a fit, and what an audit needs of it into the checkpoints.

    The other subcommands leave that file alone.
    """

    keeps_data = True
    """An audit of a checkpoint need not be told of the data."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Not yet: the file of an earlier fit may be there, and is moved aside before the first step."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().setup(trainer, pl_module, "fit")

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        called = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
        checkpoint[CLI_CONFIG_KEY] = kept_config(called)


class NoisyCLI(LightningCLI):
    """LightningCLI with the classifier and the data module of this package as defaults."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.set_defaults(
            {
                "model": {"class_path": "lightning_noisy.NoisyImageClassifier"},
                "data": {"class_path": "lightning_noisy.NoisyImageDataModule"},
            }
        )
        parser.add_lightning_class_args(RunFiles, "run_files")
        parser.add_lightning_class_args(PredictionFile, "prediction_file")
        for name in ("num_classes", "class_names"):
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")

    def before_instantiate_classes(self) -> None:
        # A CSV logger deletes the file of an earlier run in its folder: what a fit has logged must outlive a test.
        called = self.config[self.subcommand] if self.subcommand else self.config
        trainer = called.trainer
        if self.subcommand not in (None, "fit") and "CSVLogger" in str(trainer.logger):
            trainer.logger = False
        _name_wandb_runs(trainer.logger, recipe_name([str(path) for path in called.config or []]))

    def _run_subcommand(self, subcommand: str) -> None:
        with other_processes(self.trainer):
            super()._run_subcommand(subcommand)

    def _parse_ckpt_path(self) -> None:
        """The command line decides what the model is: LightningCLI would put the checkpoint's words over it."""


def _name_wandb_runs(loggers: Any, recipe: str | None) -> None:
    """After the recipe; one that the config names already, such as that of an earlier run, is kept."""
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        if isinstance(logger, Namespace) and "recipe" in logger.init_args:
            logger.init_args.recipe = logger.init_args.recipe or recipe


class OneSentenceParser(OneSentenceErrors, LightningArgumentParser):
    """LightningCLI's parser, for which a user's mistake is one sentence."""


def main(args: ArgsType = None, run: bool = True) -> NoisyCLI:
    """Parses the arguments (``sys.argv`` by default) and runs the subcommand."""
    with redirect_rank_output():
        return NoisyCLI(
            L.LightningModule,
            L.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=DEFAULT_SEED,
            save_config_callback=SaveFitConfig,
            save_config_kwargs={"overwrite": True},
            auto_configure_optimizers=False,
            parser_class=OneSentenceParser,
            parser_kwargs={"prog": PROGRAM, "description": DESCRIPTION, "version": __version__},
            args=args,
            run=run,
        )


def train_fold(config: dict[str, Any], datamodule: L.LightningDataModule, directory: Path) -> L.LightningModule:
    """Trains as a ``fit`` with this config would, on other images; resumes where a killed one in ``directory`` stopped.

    Args:
        config: ``model``, ``data``, ``trainer`` and ``seed_everything``.
        datamodule: The images.
        directory: For the files of the training.
    """
    directory.mkdir(parents=True, exist_ok=True)
    trainer = {**config["trainer"], "default_root_dir": str(directory), "logger": False, "enable_checkpointing": True}
    path = directory / f"config-{os.getpid()}.yaml"
    path.write_text(yaml.safe_dump({**config, "trainer": trainer}), encoding="utf-8")
    cli = main(["--config", str(path), f"--run_files.directory={directory}"], run=False)
    callbacks: list[L.Callback] = cli.trainer.callbacks  # type: ignore[attr-defined]
    callbacks.append(LastCheckpoint(dirpath=str(directory)))
    last = directory / "last.ckpt"
    cli.trainer.fit(cli.model, datamodule, ckpt_path=str(last) if last.is_file() else None, weights_only=True)
    return cli.model


def console_script() -> None:
    """Runs a command: a mistake in the data or the options ends in its sentence, without a traceback."""
    silence_upstream_messages()
    silence_bars_of_transformers()
    format_own_warnings()
    first = sys.argv[1] if len(sys.argv) > 1 else ""
    try:
        with mistakes_in_one_sentence(
            PushError, MisconfigurationException, DistNetworkError, explain=launching_sentence
        ):
            if first in HUB_COMMANDS:
                from lightning_noisy.cli import export_commands

                export_commands.run(sys.argv[1:])
            elif first in AUDIT_COMMANDS:
                from lightning_noisy.cli import audit_commands  # a fit need not wait for what an audit imports

                with redirect_rank_output():
                    audit_commands.run(sys.argv[1:], train_fold)
            else:
                main()
    except SIGTERMException:
        # By itself Lightning ends as if all were done, which a scheduler would believe.
        print(f"{PROGRAM}: ended by SIGTERM. The same command with `--ckpt_path last` resumes it.", file=sys.stderr)
        sys.exit(128 + signal.SIGTERM)
