"""The console script ``lightning-noisy``: fit, validate, test and predict through LightningCLI."""

import sys
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from lightning_noisy.data import NoisyImageDataModule
from lightning_noisy.training import NoisyImageClassifier
from lightning_noisy.training.artifacts import PredictionFile, RunFiles

DEFAULT_SEED = 0


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

    def _parse_ckpt_path(self) -> None:
        """The command line decides what the model is: LightningCLI would put the checkpoint's words over it."""


def main(args: ArgsType = None, run: bool = True) -> NoisyCLI:
    """Runs the console script; a user's mistake ends in its one sentence, without a traceback."""
    torch.set_float32_matmul_precision("high")
    return NoisyCLI(
        L.LightningModule,
        L.LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        seed_everything_default=DEFAULT_SEED,
        save_config_kwargs={"overwrite": True},
        auto_configure_optimizers=False,
        parser_kwargs=_parser_kwargs(),
        args=args,
        run=run,
    )


def _parser_kwargs() -> dict[str, Any]:
    return {"description": "Fine-tune an image classifier on partly wrong labels and keep a clean model."}


def console_script() -> None:
    """What the shell calls."""
    try:
        main()
    except ValueError as error:
        sys.exit(f"lightning-noisy: error: {error}")


__all__ = ["NoisyCLI", "NoisyImageClassifier", "NoisyImageDataModule", "console_script", "main"]
