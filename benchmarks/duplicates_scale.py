"""Time and memory of the search for duplicates, and how many of those that are there it finds.

    python benchmarks/duplicates_scale.py               # 10,000, 100,000 and 1,000,000 images: 2.4 GB in --directory
    python benchmarks/duplicates_scale.py --quick       # 2,000 images, to see that it runs

Features (N, 1024) in half precision, mapped from a file as those of an audit are, in 200 clouds; a twentieth of the
images are nearly the same as another one, half of them by their features and half by their thumbnails. Each size runs
in a process of its own; memory is its largest resident set without what Python and the libraries take. Pages of the
mapped file that are in memory count, though the system may take them back.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import save_file

HERE = Path(__file__).parent
SIZES = (10_000, 100_000, 1_000_000)
FEATURES = 1024
PAIRED = 100_000
"""Images at which all pairs are compared too."""
CLOUDS = 200
COPIES = 0.05
AT_ONCE = 50_000


def write_data(folder: Path, rows: int) -> None:
    """``features.safetensors`` and ``thumbnails.npy``; the last images are copies of the first."""
    if (folder / "thumbnails.npy").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    features = torch.empty(rows, FEATURES, dtype=torch.float16)
    centres = torch.randn(CLOUDS, FEATURES, generator=generator)
    for first in range(0, rows, AT_ONCE):
        part = features[first : first + AT_ONCE]
        part.copy_(
            torch.randn(part.shape, generator=generator)
            + centres[torch.randint(CLOUDS, (len(part),), generator=generator)]
        )
    copies = int(COPIES * rows)
    by_features, by_thumbnails = copies // 2, copies - copies // 2
    noise = torch.randn(by_features, FEATURES, generator=generator)
    features[rows - copies : rows - by_thumbnails] = (features[:by_features].float() + 0.2 * noise).half()
    save_file({"features": features}, folder / "features.safetensors")
    drawn = np.random.default_rng(0)
    thumbnails = np.repeat(np.repeat(drawn.integers(0, 256, (rows, 8, 8), dtype=np.uint8), 2, axis=1), 2, axis=2)
    thumbnails[rows - copies :] = thumbnails[:copies]
    thumbnails[rows - copies :] ^= drawn.integers(0, 8, (copies, 16, 16), dtype=np.uint8)
    np.save(folder / "thumbnails.npy", thumbnails.reshape(rows, 256))


def search(folder: Path, rows: int, everything: bool) -> dict:
    """What one search takes and finds; ``everything`` compares all pairs."""
    from lightning_noisy.audit.issues.duplicates import find_duplicates
    from lightning_noisy.features import similar

    if everything:
        similar.EXACT_ROWS = max(rows, similar.EXACT_ROWS)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with safe_open(folder / "features.safetensors", framework="pt") as file:
        features = file.get_tensor("features")
    facts = {"pixel_digest": np.arange(rows), "thumbnail": np.load(folder / "thumbnails.npy")}
    facts["mean_colour"] = np.full((rows, 3), 128, dtype=np.uint8)
    begun, cpu = time.perf_counter(), time.process_time()
    found = find_duplicates(facts, features)
    seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - cpu
    copies = int(COPIES * rows)
    group = found.group
    together = (group[:copies] >= 0) & (group[:copies] == group[rows - copies :])
    expected = np.concatenate([np.arange(copies), np.arange(rows - copies, rows)])
    return {
        "images": rows,
        "all_pairs": everything,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "memory_gb": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6, 2),
        "found": round(float(together.mean()), 5),
        "found_wrongly": int((group >= 0).sum() - (group[expected] >= 0).sum()),
        "threads": torch.get_num_threads(),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, default=Path("runs/duplicates"), help="where the data are kept")
    parser.add_argument("--quick", action="store_true", help="a smoke run; not kept by default")
    parser.add_argument("--output", type=Path, help="the results file")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        rows, everything = int(options.one[0]), options.one[1] == "all"
        print(json.dumps(search(options.directory / str(rows), rows, everything)))
        return
    output = options.output or (Path("runs") if options.quick else HERE / "results") / "duplicates_scale.jsonl"
    output.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in output.open()] if output.is_file() else []
    done = {(line["images"], line["all_pairs"]) for line in lines}
    for rows in (2000,) if options.quick else SIZES:
        for everything in (False, True) if rows == PAIRED and not options.quick else (False,):
            if (rows, everything) in done:
                continue
            write_data(options.directory / str(rows), rows)
            command = [sys.executable, __file__, "--directory", str(options.directory)]
            command += ["--one", str(rows), "all" if everything else "cells"]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), *sys.path])}
            line = subprocess.run(
                command, check=True, capture_output=True, text=True, env=environment
            ).stdout.splitlines()[-1]
            with output.open("a") as file:
                file.write(line + "\n")
            Console().print(line, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
