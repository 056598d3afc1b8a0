"""The noise layer beside its competitors on wrong labels: one line of JSON for each training, tables, a picture.

    python benchmarks/denoise.py --cells digits --seeds 5            # a few minutes on one CPU core
    python benchmarks/denoise.py --data-dir DIR                      # all cells; DIR has mnist/, see cifar_features.py
    python benchmarks/denoise.py --quick                             # two cells, two methods, to see that it runs

Every method trains the same network on the same labels, with the same optimizer and the same number of epochs. Clean
test accuracy is that of the last epoch, and of the epoch with the best accuracy on held-out *noisy* labels. A training
that is already in the results file is not repeated. `--methods "likelihood" "without counting" "without balancing"
"without validation" "without focus" "one epoch of warm-up" "true matrix"` adds the default without one of its parts or
with another, `--methods "second stage" "second stage, 5 folds"` a second training on corrected labels, `--methods
"label refinement" --cells fine-tuning` a training on what a probe of the pretrained features says of each label.
"""

import argparse
import itertools
import json
from pathlib import Path

import torch
from denoising.cells import CELLS as OWN_CELLS
from denoising.cleanlab_pruning import CleanlabPruning
from denoising.last_stage import LAST_STAGE_CELLS
from denoising.methods import ABLATIONS
from denoising.methods import METHODS as ONE_TRAINING
from denoising.refinement import REFINEMENT
from denoising.report import REFERENCE, collect, draw, show, write_tables
from denoising.second_stage import SECOND_STAGES
from denoising.training import train

HERE = Path(__file__).parent
CELLS = {**OWN_CELLS, **LAST_STAGE_CELLS}
METHODS = {**ONE_TRAINING, "cleanlab": CleanlabPruning}
ALL = {**METHODS, **ABLATIONS, **SECOND_STAGES, **REFINEMENT}


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder with mnist/ and CIFAR-10N features")
    parser.add_argument("--cells", default="", help="only the cells whose names contain this")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(ALL), metavar="METHOD")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0 on")
    parser.add_argument("--threads", type=int, default=1, help="of torch; times are those of the processor")
    parser.add_argument("--device", default="cpu", help="where to train; write results of a GPU to a file of their own")
    parser.add_argument("--part", default="1/1", help="I/N: only every N-th training, from the I-th on")
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
    first, step = map(int, options.part.split("/"))
    tasks = [*itertools.product(range(options.seeds), cells, options.methods)][first - 1 :: step]
    for seed, cell, method in tasks:
        if (cell, method, seed) in done:
            continue
        drawn = CELLS[cell](seed, options.data_dir).to(options.device)
        with torch.device(options.device):
            measured = train(drawn, ALL[method], seed)
        lines.append({"cell": cell, "method": method, "seed": seed, **measured})
        with options.output.open("a") as file:
            file.write(json.dumps(lines[-1]) + "\n")
    results, shown = collect(lines), [name for name in CELLS if any(line["cell"] == name for line in lines)]
    show(results, cells, list(METHODS))
    write_tables(results, shown, list(ALL), options.output.with_suffix(".md"))
    draw(results, shown, list(METHODS), options.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
