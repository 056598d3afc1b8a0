"""How often a class that is two under one name is told, and how often one that is one.

    python benchmarks/split_classes.py --data-dir DIR           # DIR holds what cifar_features.py has written
    python benchmarks/split_classes.py --data-dir DIR --quick   # one cell, to see that it runs

Each seed draws 4,000 images of CIFAR-10N, none of the first 10,000 on which thresholds were chosen, as MobileNetV2-0.35
sees them, or all digits by their pixels. Every class is looked at as it is, and then the ten are merged in pairs at
random, so that each of five is two. A line of JSON for each class, and a table.
"""

import argparse
import json
import random
from pathlib import Path

import pyarrow as pa
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch import Tensor

from lightning_noisy.audit.issues import split_classes as product
from lightning_noisy.audit.judging.by_features import judge_by_probe
from lightning_noisy.noise.synthetic import corrupt_labels, transition_matrix_from_spec

HERE = Path(__file__).parent
FIRST_ROW, IMAGES = 10_000, 4000
CLASSES = ["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
CELLS = [("cifar10n", labels) for labels in ("clean", "aggre", "random1", "worse", "uniform:0.3")]
CELLS += [("digits", labels) for labels in ("clean", "uniform:0.3")]


def drawn(data: str, labels: str, seed: int, data_dir: Path) -> tuple[Tensor, Tensor, list[str]]:
    """Features (N, D), given labels (N,) and the names of the classes."""
    if data == "digits":
        pixels, truth = load_digits(return_X_y=True)
        features, columns, names = (
            torch.from_numpy(pixels).float(),
            {"clean": torch.from_numpy(truth)},
            list("0123456789"),
        )
    else:
        found = load_file(data_dir / "cifar10n_features.safetensors")
        rows = FIRST_ROW + torch.randperm(
            len(found["clean"]) - FIRST_ROW, generator=torch.Generator().manual_seed(seed)
        )
        rows = rows[:IMAGES].sort().values
        features, names = found["train"][rows], CLASSES
        columns = {name: values[rows] for name, values in found.items() if len(values) == len(found["clean"])}
    if labels in columns:
        return features, columns[labels].long(), names
    matrix = transition_matrix_from_spec(labels, len(names), seed)
    return features, torch.as_tensor(corrupt_labels(columns["clean"].long(), matrix, seed)), names


def run(data: str, labels: str, seed: int, data_dir: Path) -> list[dict]:
    """A line for each class, as it is and merged with another."""
    features, given, names = drawn(data, labels, seed, data_dir)
    order = random.Random(seed).sample(range(len(names)), len(names))
    pairs = [order[first : first + 2] for first in range(0, len(names), 2)]
    lines = []
    for classes in ([[label] for label in range(len(names))], pairs):
        number = torch.tensor(
            [next(new for new, old in enumerate(classes) if label in old) for label in range(len(names))]
        )
        posterior = judge_by_probe(features, number[given], len(classes), seed=seed).noise.posterior
        ids = pa.array([str(row) for row in range(len(given))])
        found = product.split_classes(features, number[given], posterior, torch.full_like(given, -1), ids)
        told = {split.label: split for split in found}
        for new, old in enumerate(classes):
            name = "+".join(names[label] for label in old)
            line = {"data": data, "labels": labels, "seed": seed, "class": name, "is_two": len(old) == 2}
            crossing = round(told[new].crossing, 3) if new in told else None
            lines.append({**line, "told": new in told, "crossing": crossing})
    return lines


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with cifar10n_features.safetensors")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0 on")
    parser.add_argument("--quick", action="store_true", help="a smoke run; not kept by default")
    parser.add_argument("--output", type=Path, help="the results file")
    options = parser.parse_args(arguments)
    output = options.output or (Path("runs") if options.quick else HERE / "results") / "split_classes.jsonl"
    output.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in output.open()] if output.is_file() else []
    done = {(line["data"], line["labels"], line["seed"]) for line in lines}
    for data, labels in CELLS[-2:-1] if options.quick else CELLS:
        for seed in range(1 if options.quick else options.seeds):
            if (data, labels, seed) in done:
                continue
            found = run(data, labels, seed, options.data_dir)
            lines += found
            with output.open("a") as file:
                file.writelines(json.dumps(line) + "\n" for line in found)
    Console().print(tabulate(lines))


def tabulate(lines: list[dict]) -> Table:
    table = Table("data", "labels", "one class, told as two", "two merged, told as two")
    for cell in dict.fromkeys((line["data"], line["labels"]) for line in lines):
        shares = []
        for is_two in (False, True):
            told = [
                line["told"] for line in lines if (line["data"], line["labels"]) == cell and line["is_two"] == is_two
            ]
            shares.append(f"{sum(told)} of {len(told)}")
        table.add_row(*cell, *shares)
    return table


if __name__ == "__main__":
    main()
