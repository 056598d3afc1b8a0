"""Fine-tunes recipes/cifar10n.yaml with the noise layer and without, over seeds; one line of JSON for each run.

    python benchmarks/prepare_data.py --data-dir DIR --output data    # and the weights file into data/, see the recipe
    python benchmarks/cifar10n.py --seeds 3

A run that is already in the results file is not repeated. Accuracies are on clean test labels after the last epoch.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from lightning_noisy.cli.lightning_cli import main as run_cli

HERE = Path(__file__).parent
RECIPE = HERE.parent / "recipes" / "cifar10n.yaml"
ARMS = {
    "noise layer, `worse` labels": [],
    "cross-entropy, `worse` labels": ["--model.noise=null"],
    "noise layer, clean labels": ["--data.label_column=clean"],
    "cross-entropy, clean labels": ["--data.label_column=clean", "--model.noise=null"],
}


def measure(arm: str, seed: int) -> dict:
    """One training of the recipe; its line of the results."""
    arguments = [f"--seed_everything={seed}", f"--data.seed={seed}", "--trainer.enable_progress_bar=false"]
    start = time.perf_counter()
    cli = run_cli(["fit", "--config", str(RECIPE), *ARMS[arm], *arguments])
    seconds = time.perf_counter() - start
    accuracy = cli.trainer.test(cli.model, cli.datamodule, verbose=False)[0]["test/accuracy_clean"]
    return {
        "arm": arm,
        "seed": seed,
        "test_accuracy_clean": round(accuracy, 4),
        "label_noise_rate": round(cli.datamodule.label_noise_rate, 4),
        "train_images": len(cli.datamodule.splits["train"]),
        "epochs": cli.trainer.current_epoch,
        "seconds": round(seconds),
    }


def show(lines: list[dict]) -> None:
    """Prints the mean and the spread of each arm."""
    table = Table("labels and loss", "clean test accuracy", "seeds", "seconds")
    for arm in ARMS:
        accuracies = [line["test_accuracy_clean"] for line in lines if line["arm"] == arm]
        if accuracies:
            seconds = np.mean([line["seconds"] for line in lines if line["arm"] == arm])
            spread = f"{np.mean(accuracies):.3f} ± {np.std(accuracies):.3f}"
            table.add_row(arm, spread, str(len(accuracies)), f"{seconds:.0f}")
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0 on")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "cifar10n.jsonl", help="the results file")
    options = parser.parse_args()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in options.output.open()] if options.output.is_file() else []
    done = {(line["arm"], line["seed"]) for line in lines}
    for seed in range(options.seeds):
        for arm in ARMS:
            if (arm, seed) not in done:
                lines.append(measure(arm, seed))
                with options.output.open("a") as file:
                    file.write(json.dumps(lines[-1]) + "\n")
    show(lines)


if __name__ == "__main__":
    main()
