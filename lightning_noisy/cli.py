"""The console script ``lightning-noisy``: fit, validate, test and predict through LightningCLI."""

import os
import re
import sys
from typing import NoReturn

import lightning.pytorch as L
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback

from lightning_noisy import __version__
from lightning_noisy.training.artifacts import PredictionFile, RunFiles

PROGRAM = "lightning-noisy"
DESCRIPTION = "Fine-tune an image classifier on partly wrong labels and keep a clean model."
DEFAULT_SEED = 0


class SaveFitConfig(SaveConfigCallback):
    """Writes ``config.yaml`` beside the logs of a fit; the other subcommands leave that file alone."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            super().setup(trainer, pl_module, stage)


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
        trainer = self.config[self.subcommand].trainer if self.subcommand else self.config.trainer
        if self.subcommand not in (None, "fit") and "CSVLogger" in str(trainer.logger):
            trainer.logger = False

    def _parse_ckpt_path(self) -> None:
        """The command line decides what the model is: LightningCLI would put the checkpoint's words over it."""


class OneSentenceParser(LightningArgumentParser):
    """Ends a user's mistake in one sentence rather than in pages of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error or _is_debugging():
            super().error(message, ex)
        self.exit(2, f"{PROGRAM}: error: {one_sentence(message)}\n")


def one_sentence(message: str) -> str:
    """What went wrong, out of jsonargparse's list of all types that a value did not fit."""
    entries: list[str] = []
    for line in (line.strip() for line in message.splitlines()):
        if line.startswith("Given value"):
            break
        if line.startswith("- "):
            entries.append(line[2:])
        elif entries:
            entries[-1] += f" {line}"
    told = [entry for entry in entries if not entry.startswith(("Expected a <class", "Does not validate"))]
    key = re.match(r'Parser key "[^"]+":', message)
    sentence = told[0] if told else " ".join(message.split())
    if len(told) > 1 and "Does not validate" in sentence:
        sentence = sentence.partition("Does not validate")[0] + told[1]
    return f"{key.group()} {sentence}" if key and told else sentence


def main(args: ArgsType = None, run: bool = True) -> NoisyCLI:
    """Parses the arguments (``sys.argv`` by default) and runs the subcommand."""
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


def console_script() -> None:
    """What the shell calls: a mistake in the data or the options ends in its sentence, without a traceback."""
    try:
        main()
    except ValueError as error:
        if _is_debugging():
            raise
        sys.exit(f"{PROGRAM}: error: {one_sentence(str(error))}")


def _is_debugging() -> bool:
    """Whether the user asked for tracebacks, by jsonargparse's own switch."""
    return "JSONARGPARSE_DEBUG" in os.environ
