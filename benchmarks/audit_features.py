"""Audits without a training: a frozen backbone's features, judged by the product, cleanlab and neighbours.

    python benchmarks/audit_features.py --data-dir DIR              # DIR as for cifar_features.py, and mnist/
    python benchmarks/audit_features.py --data-dir DIR --quick      # one cell, one seed, to see that it runs

A line of JSON for each method in each cell with each seed, and tables. Each seed has images of its own, none of which
is among the first 10,000 of CIFAR-10N, on which thresholds were chosen. Features that are there are not made again,
and what is in the results file is not repeated.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from auditing.by_features import METHODS
from auditing.frozen import BACKBONES, frozen_features
from auditing.measuring import measure
from auditing.report import feature_tables
from rich.console import Console

from lightning_noisy.noise.synthetic import corrupt_labels, transition_matrix_from_spec

HERE = Path(__file__).parent
HUMAN = ("worse", "random1", "aggre", "clean")
SYNTHETIC = ("uniform:0.2", "uniform:0.5", "nonuniform:0.4", "pair:0.3")
CELLS = {f"{data}, {backbone}, {labels}": (data, backbone, labels)
         for data, backbones in {"cifar10n": BACKBONES, "mnist": ["mobilenetv2_035"]}.items()
         for backbone in backbones
         for labels in ((*HUMAN, *SYNTHETIC) if data == "cifar10n" else SYNTHETIC)}  # fmt: skip


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with npz files, mnist/ and weights")
    parser.add_argument("--cells", default="", help="only the cells whose names contain this")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), metavar="METHOD")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0 on")
    parser.add_argument("--images", type=int, default=4000, help="images of a seed")
    parser.add_argument("--quick", action="store_true", help="a smoke run; not kept by default")
    parser.add_argument("--output", type=Path, help="the results file")
    options = parser.parse_args(arguments)
    name = "audit_features.jsonl"
    options.output = options.output or (Path("runs") / name if options.quick else HERE / "results" / name)
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse_options(arguments)
    cells = [name for name in CELLS if options.cells in name]
    if options.quick:
        cells, options.seeds, options.images = cells[:1], 1, 500
    if not cells:
        raise SystemExit(f"Expected --cells to be a part of a cell's name, but got {options.cells!r}: {list(CELLS)}.")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in options.output.open()] if options.output.is_file() else []
    done = {(line["cell"], line["method"], line["seed"]) for line in lines}
    for seed in range(options.seeds):
        for cell in cells:
            for method in options.methods:
                if (cell, method, seed) not in done:
                    lines.append(run(cell, method, seed, options))
    tables = feature_tables(lines, list(METHODS))
    options.output.with_suffix(".md").write_text(tables, encoding="utf-8")
    Console().print(tables, markup=False, highlight=False)


def run(cell: str, method: str, seed: int, options: argparse.Namespace) -> dict:
    """One line of results, which is written as soon as it is known."""
    data, backbone, labels = CELLS[cell]
    features, columns = frozen_features(data, backbone, options.data_dir, seed, options.images)
    clean = columns["clean"]
    given = columns[labels] if labels in columns else _corrupted(clean, labels, seed)
    begun = time.process_time()
    verdict = METHODS[method](features, given, seed)
    line = {"cell": cell, "method": method, "seed": seed, **measure(verdict, given.numpy(), clean.numpy())}
    line["cpu_seconds"] = round(time.process_time() - begun, 2)
    if verdict.interval is not None:
        line["error_low"], line["error_high"] = (round(end, 4) for end in verdict.interval)
    with options.output.open("a") as file:
        file.write(json.dumps(line) + "\n")
    return line


def _corrupted(clean: torch.Tensor, spec: str, seed: int) -> torch.Tensor:
    matrix = transition_matrix_from_spec(spec, len(clean.unique()), seed)
    return torch.as_tensor(np.asarray(corrupt_labels(clean, matrix, seed)))


if __name__ == "__main__":
    main()
