"""The noise layer beside its competitors on wrong labels: one line of JSON for each training, a table, a picture.

    python benchmarks/denoise.py --cells digits --seeds 5            # a few minutes on one CPU core
    python benchmarks/denoise.py --data-dir DIR                      # all cells; DIR has mnist/, see cifar_features.py
    python benchmarks/denoise.py --quick                             # two cells, two methods, to see that it runs

Every method trains the same network on the same labels, with the same optimizer and the same number of epochs. Clean
test accuracy is that of the last epoch, and of the epoch with the best accuracy on held-out *noisy* labels. A training
that is already in the results file is not repeated.
"""

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from denoising.cells import CELLS
from denoising.cleanlab_pruning import CleanlabPruning
from denoising.methods import METHODS as ONE_TRAINING
from denoising.training import train
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
METHODS = {**ONE_TRAINING, "cleanlab": CleanlabPruning}
REFERENCE = "cross-entropy"


def mean(lines: list[dict], name: str) -> float:
    """NaN where no line has a number."""
    values = [line[name] for line in lines if line[name] is not None]
    return float(np.mean(values)) if values else float("nan")


def show(lines: list[dict], cells: list[str]) -> None:
    """A table for each cell: means, and the standard deviation of the last epoch's accuracy over the seeds."""
    for cell in cells:
        found = {name: [line for line in lines if (line["cell"], line["method"]) == (cell, name)] for name in METHODS}
        found = {name: part for name, part in found.items() if part}
        table = Table(
            "method", "last epoch", "best noisy val.", "error of T", "calibration", "lost", "time", title=cell
        )
        for name, part in found.items():
            spread = np.std([line["last"] for line in part])
            reference = mean(found[REFERENCE], "cpu_seconds") if REFERENCE in found else float("nan")
            table.add_row(
                name,
                f"{mean(part, 'last'):.3f} ± {spread:.3f} ({len(part)})",
                f"{mean(part, 'best_noisy_val'):.3f}",
                f"{mean(part, 'matrix_error'):.2f}",
                f"{mean(part, 'calibration_error'):.3f}",
                str(sum(line["lost_classes"] > 0 for line in part)),
                f"{mean(part, 'cpu_seconds') / reference:.2f}",
            )
        Console().print(table)


def draw(lines: list[dict], cells: list[str], path: Path) -> None:
    """Accuracy of the last epoch: a row of points for each cell, a colour for each method."""
    shown = [cell for cell in cells if any(line["cell"] == cell for line in lines)]
    figure, axes = plt.subplots(figsize=(9, 1.5 + 0.45 * len(shown)), layout="constrained")
    colours = plt.get_cmap("tab20")
    for number, name in enumerate(METHODS):
        points = [
            (place, line["last"]) for place, cell in enumerate(shown) for line in lines
            if line["cell"] == cell and line["method"] == name
        ]  # fmt: skip
        if points:
            places, accuracies = zip(*points, strict=True)
            shifted = np.asarray(places) + 0.6 * (number / len(METHODS) - 0.5)
            axes.scatter(accuracies, shifted, s=14, color=colours(number % 20), label=name)
    axes.set_yticks(range(len(shown)), shown)
    axes.invert_yaxis()
    axes.set_xlabel("clean test accuracy after the last epoch")
    figure.legend(loc="outside lower center", ncols=4, fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder with mnist/ and CIFAR-10N features")
    parser.add_argument("--cells", default="", help="only the cells whose names contain this")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), metavar="METHOD")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0 on")
    parser.add_argument("--threads", type=int, default=1, help="of torch; times are those of the processor")
    parser.add_argument("--quick", action="store_true", help="a smoke run; not kept by default")
    parser.add_argument("--output", type=Path, help="the results file, benchmarks/results/denoise.jsonl by default")
    options = parser.parse_args(arguments)
    name = "denoise_quick.jsonl" if options.quick else "denoise.jsonl"
    options.output = options.output or (Path("runs") / name if options.quick else HERE / "results" / name)
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse_options(arguments)
    torch.set_num_threads(options.threads)
    cells = [name for name in CELLS if options.cells in name]
    if options.quick:
        cells, options.methods, options.seeds = ["digits uniform:0.5", "digits pair:0.4"], [REFERENCE, "noise layer"], 1
    if not cells:
        raise SystemExit(f"Expected --cells to be a part of a cell's name, but got {options.cells!r}: {[*CELLS]}.")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in options.output.open()] if options.output.is_file() else []
    done = {(line["cell"], line["method"], line["seed"]) for line in lines}
    for cell in cells:
        for seed in range(options.seeds):
            for method in options.methods:
                if (cell, method, seed) in done:
                    continue
                measured = train(CELLS[cell](seed, options.data_dir), METHODS[method], seed)
                lines.append({"cell": cell, "method": method, "seed": seed, **measured})
                with options.output.open("a") as file:
                    file.write(json.dumps(lines[-1]) + "\n")
    show(lines, cells)
    draw(lines, cells, options.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
