"""Does a class get lost? The default and the layer as published over noises, scales, learning rates, K and seeds.

    python benchmarks/collapse.py               # 2 x 120 trainings, ten minutes on one CPU core

A class is lost when the network predicts it for fewer than 1% of its number of test images after the last epoch. Each
training is a line of JSON; one that is there already is not repeated.
"""

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import torch
from denoising.cells import CELLS
from denoising.methods import METHODS, Method
from denoising.training import train
from rich.console import Console
from rich.progress import track
from rich.table import Table

RESULTS = Path(__file__).parent / "results" / "collapse.jsonl"
LAYERS = ("noise layer", "layer as published")
TEN_CLASSES = ("digits uniform:0", "digits uniform:0.5", "digits uniform:0.7", "digits pair:0.4")
HUNDRED_CLASSES = ("100 clouds uniform:0.5", "100 clouds pair:0.3")
SCALES = (0.25, 1.0, 4.0)
LEARNING_RATES = (3e-4, 1e-3, 5e-3)


def runs() -> list[tuple[str, float, float, int]]:
    """Cell, scale, learning rate, seed: 4 x 3 x 3 x 3 of ten classes and 2 x 3 x 2 of a hundred, for each layer."""
    ten = itertools.product(TEN_CLASSES, SCALES, LEARNING_RATES, range(3))
    hundred = itertools.product(HUNDRED_CLASSES, SCALES, LEARNING_RATES[1:], range(1))
    return [*ten, *hundred]


def scaled(kind: type[Method], scale: float) -> type[Method]:
    """The same method with another scale of its layer."""

    class Scaled(kind):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, init_scale=scale)

    return Scaled


def show(lines: list[dict]) -> None:
    table = Table("layer", "runs", "runs with a lost class", "classes lost", title="Lost classes")
    for layer in LAYERS:
        lost = [line["lost_classes"] for line in lines if line["layer"] == layer]
        table.add_row(layer, str(len(lost)), str(sum(count > 0 for count in lost)), str(sum(lost)))
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keys = ("layer", "cell", "scale", "learning_rate", "seed")
    lines = [json.loads(line) for line in options.output.open()] if options.output.is_file() else []
    done = {tuple(line[key] for key in keys) for line in lines}
    left = [run for run in itertools.product(LAYERS, runs()) if (run[0], *run[1]) not in done]
    for layer, (name, scale, learning_rate, seed) in track(left, "training"):
        cell = CELLS[name](seed, Path("data"))
        cell.learning_rate = learning_rate
        found = train(cell, scaled(METHODS[layer], scale), seed)
        values = (layer, name, scale, learning_rate, seed, found["lost_classes"], found["last"])
        lines.append(dict(zip((*keys, "lost_classes", "last"), values, strict=True)))
        with options.output.open("a") as file:
            file.write(json.dumps(lines[-1]) + "\n")
    show(lines)


if __name__ == "__main__":
    main()
