"""Does the default ever do harm? Random small trainings over everything that users vary, beside cross-entropy.

    python benchmarks/stability.py --data-dir DIR                 # 500 configurations, about 2 hours on 2 CPU cores
    python benchmarks/stability.py --data-dir DIR --workers 16    # the same in 16 processes
    python benchmarks/stability.py --data-dir DIR --first 30000 --configurations 100   # from data not chosen on
    python benchmarks/stability.py --data-dir DIR --again 8       # and what was harmed by chance, by further seeds
    python benchmarks/stability.py --report                       # the tables and the picture of what is there

DIR is as for denoise.py. Every configuration is drawn by its number: data, network, noise, rate, imbalance, epochs,
optimizer, learning rate, schedule, batch size, accumulation, augmentation, mixup, and who trains: a loop, or the public
trainers (the mixin, in two processes too, NoisyImageClassifier, transformers' Trainer). Cross-entropy is trained three
times: the first two are what a method is compared with, the third shows what chance alone does. All is measured on
clean test images after the last epoch. A training that is already in the results is not repeated. ``--again`` trains
the configurations that were harmed with further seeds, each by cross-entropy and by the noise layer: chance that was
found by looking for it is not found again.
"""

import argparse
import itertools
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from stabilising.configurations import Configuration, draw
from stabilising.report import FURTHER, draw_picture, harmed_numbers, show, write_tables
from stabilising.training import COMPARED, measure

RESULTS = Path(__file__).parent / "results" / "stability.jsonl"
SEEDS_OF_CROSS_ENTROPY = 3
Task = tuple[int, str, int]
"""Number, method, seed."""


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder with mnist/ and CIFAR-10N")
    parser.add_argument("--configurations", type=int, default=500, help="how many, from --first on")
    parser.add_argument("--first", type=int, default=0, help="number of the first configuration")
    parser.add_argument("--data", nargs="+", help="only configurations of these data")
    parser.add_argument("--methods", nargs="+", default=list(COMPARED), choices=list(COMPARED), metavar="METHOD")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--again", type=int, default=0, metavar="N", help="further seeds of what was harmed")
    parser.add_argument("--report", action="store_true", help="train nothing")
    parser.add_argument("--output", type=Path, default=RESULTS, help="the results file")
    return parser.parse_args(arguments)


def trainings(configuration: Configuration, methods: list[str]) -> list[tuple[str, int]]:
    """Method and seed of what a configuration trains.

    In half of those by the loop the competitors are trained too; public trainers have no competitors and no third seed.
    """
    is_loop = configuration.trainer == "loop"
    own = [name for name in methods if configuration.has_competitors or name in ("cross-entropy", "noise layer")]
    seeds = {"cross-entropy": SEEDS_OF_CROSS_ENTROPY if is_loop else SEEDS_OF_CROSS_ENTROPY - 1}
    return [(name, seed) for name in own for seed in range(seeds.get(name, 1))]


def run_one(number: int, method: str, seed: int, data_dir: Path) -> dict[str, Any]:
    """A line of results."""
    torch.set_num_threads(1)
    configuration = draw(number)
    return {"method": method, "seed": seed, **measure(configuration, method, seed, data_dir), **configuration.to_dict()}


def main(arguments: list[str] | None = None) -> None:
    options = parse_options(arguments)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in options.output.open()] if options.output.is_file() else []
    if not options.report:
        lines += train_all(options, tasks_of(options), lines)
        lines += train_all(options, further_tasks(options.again, lines), lines)
    show(lines)
    write_tables(lines, options.output.with_suffix(".md"))
    draw_picture(lines, options.output.with_suffix(".png"))


def tasks_of(options: argparse.Namespace) -> list[Task]:
    """What the options ask for."""
    configurations = [draw(number) for number in range(options.first, options.first + options.configurations)]
    if options.data:
        configurations = [configuration for configuration in configurations if configuration.data in options.data]
    return [
        (configuration.number, method, seed)
        for configuration in configurations
        for method, seed in trainings(configuration, options.methods)
    ]


def further_tasks(count: int, lines: list[dict[str, Any]]) -> list[Task]:
    """Pairs of trainings by seeds that nobody has looked at, of the configurations that were harmed."""
    seeds, methods = range(FURTHER, FURTHER + count), ("cross-entropy", "noise layer")
    return list(itertools.product(harmed_numbers(lines), methods, seeds))


def train_all(options: argparse.Namespace, wanted: list[Task], lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Trains what is not in the lines yet, in several processes; writes each new line when it comes, returns them."""
    done = {(line["number"], line["method"], line["seed"]) for line in lines}
    tasks, new = [task for task in wanted if task not in done], []
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(options.workers, context) as pool,
        Progress() as progress,
        options.output.open("a") as file,
    ):
        bar = progress.add_task("trainings", total=len(tasks))
        futures = [pool.submit(run_one, *task, options.data_dir) for task in tasks]
        for future in as_completed(futures):
            new.append(future.result())
            file.write(json.dumps(new[-1]) + "\n")
            file.flush()
            progress.advance(bar)
    return new


if __name__ == "__main__":
    main()
