"""Trains plain cross-entropy and the noise layer on the same corrupted digits and prints what each has learned.

python recipes/demo.py [any option of `lightning-noisy fit`, for both runs]
"""

import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lightning_noisy.cli.lightning_cli import NoisyCLI, main
from lightning_noisy.cli.upstream_messages import format_own_warnings, silence_upstream_messages

RECIPE = Path(__file__).with_name("demo.yaml")
OUTPUT = Path("runs/demo")


def train(directory: Path, *options: str) -> tuple[NoisyCLI, float, float]:
    """One ``lightning-noisy fit``; its parts, its clean test accuracy after the last epoch, and its seconds."""
    checkpoints, logger = "--trainer.callbacks.init_args.dirpath", "--trainer.logger.init_args.save_dir"
    places = [f"{checkpoints}={directory}", f"{logger}={directory}", f"--run_files.directory={directory}"]
    start = time.perf_counter()
    cli = main(["fit", "--config", str(RECIPE), *places, *options])
    seconds = time.perf_counter() - start
    accuracy = cli.trainer.test(cli.model, cli.datamodule, verbose=False)[0]["test/accuracy_clean"]
    return cli, accuracy, seconds


def report(cli: NoisyCLI, accuracies: dict[str, float], seconds: dict[str, float]) -> None:
    """Prints the table of what was measured."""
    wrong = cli.datamodule.label_noise_rate
    table = Table(title=f"Handwritten digits, {wrong:.1%} of the training labels are wrong ({cli.datamodule.noise})")
    table.add_column("trained with")
    for column in ("clean test accuracy", "epochs", "seconds"):
        table.add_column(column, justify="right")
    for name, accuracy in accuracies.items():
        table.add_row(name, f"{accuracy:.1%}", str(cli.trainer.current_epoch), f"{seconds[name]:.0f}")
    console = Console(width=100)
    console.print(table)
    console.print(f"In {OUTPUT}/: clean_model/ (plain timm), last.ckpt, metrics.csv, transition_matrix.png and .csv")


def run(options: list[str]) -> None:
    """Both trainings, then the table."""
    silence_upstream_messages()
    format_own_warnings()
    accuracies, seconds = {}, {}
    for name, directory, extra in (
        ("plain cross-entropy", OUTPUT / "cross_entropy", ["--model.noise=null"]),
        ("noise layer", OUTPUT, []),
    ):
        Console().rule(name)
        cli, accuracies[name], seconds[name] = train(directory, *extra, *options)
    report(cli, accuracies, seconds)


if __name__ == "__main__":
    run(sys.argv[1:])
