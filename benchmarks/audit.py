"""The audit beside cleanlab: one line of JSON for each method in each cell, tables, a picture.

    python benchmarks/audit.py --cells digits                       # minutes on one CPU core
    python benchmarks/audit.py --data-dir DIR                       # all cells; DIR as for denoise.py
    python benchmarks/audit.py --quick                              # two cells, one seed, to see that it runs

Every method judges the same labels by networks that were trained alike; methods that look at the same predictions share
the training. What is in the results file is not repeated.
"""

import argparse
import json
from pathlib import Path

import torch
from auditing.measuring import measure
from auditing.methods import METHODS
from auditing.predicting import Predictions
from auditing.report import draw, show, write_tables
from denoising.cells import CELLS
from denoising.report import collect

HERE = Path(__file__).parent
HUMAN = [f"cifar10n {labels}, {network}" for network in ("mlp", "linear") for labels in ("worse", "random1", "aggre")]
SYNTHETIC = ["cifar10n worse-matrix, mlp", "digits uniform:0.5", "digits pair:0.4", "100 clouds uniform:0.5"]
SYNTHETIC += ["100 clouds pair:0.3", "mnist uniform:0.5", "mnist pair:0.4"]
WITHOUT_NOISE = ["digits uniform:0", "cifar10n clean, mlp"]
AUDITED = [*HUMAN, *SYNTHETIC, *WITHOUT_NOISE, "cifar10n worse, fine-tuning"]


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder with mnist/ and CIFAR-10N features")
    parser.add_argument("--cells", default="", help="only the cells whose names contain this")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), metavar="METHOD")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0 on")
    parser.add_argument("--threads", type=int, default=1, help="of torch; times are those of the processor")
    parser.add_argument("--quick", action="store_true", help="a smoke run; not kept by default")
    parser.add_argument("--output", type=Path, help="the results file, benchmarks/results/audit.jsonl by default")
    options = parser.parse_args(arguments)
    name = "audit_quick.jsonl" if options.quick else "audit.jsonl"
    options.output = options.output or (Path("runs") / name if options.quick else HERE / "results" / name)
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse_options(arguments)
    torch.set_num_threads(options.threads)
    cells = [name for name in AUDITED if options.cells in name]
    if options.quick:
        cells, options.seeds = ["digits uniform:0.5", "digits pair:0.4"], 1
    if not cells:
        raise SystemExit(f"Expected --cells to be a part of a cell's name, but got {options.cells!r}: {AUDITED}.")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in options.output.open()] if options.output.is_file() else []
    done = {(line["cell"], line["method"], line["seed"]) for line in lines}
    for seed in range(options.seeds):
        for cell in cells:
            missing = [method for method in options.methods if (cell, method, seed) not in done]
            if missing:
                lines += run(cell, missing, seed, options)
    results = collect(lines)
    shown = [name for name in AUDITED if any(line["cell"] == name for line in lines)]
    show(results, shown)
    write_tables(results, shown, list(METHODS), options.output.with_suffix(".md"))
    draw(results, shown, list(METHODS), options.output.with_suffix(".png"))


def run(cell: str, methods: list[str], seed: int, options: argparse.Namespace) -> list[dict]:
    """The lines of one cell with one seed; each is written as soon as it is known."""
    predictions, lines = Predictions(CELLS[cell](seed, options.data_dir), seed), []
    given, clean = predictions.cell.noisy_labels.numpy(), predictions.cell.clean_labels.numpy()
    for method in methods:
        verdict, seconds = METHODS[method].audit(predictions)
        line = {"cell": cell, "method": method, "seed": seed, **measure(verdict, given, clean)}
        lines.append({**line, "cpu_seconds": round(seconds, 2)})
        with options.output.open("a") as file:
            file.write(json.dumps(lines[-1]) + "\n")
    return lines


if __name__ == "__main__":
    main()
