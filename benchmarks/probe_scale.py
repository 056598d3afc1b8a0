"""Time and memory of judging given labels by a linear probe of features that are there already.

    python benchmarks/probe_scale.py                          # 100,000 x 256, 100 classes
    python benchmarks/probe_scale.py --images 20000           # fewer

Features (N, D) in half precision are mapped from a file, as those of an audit are; a cloud for each class, a fifth of
the labels drawn anew. It runs in a process of its own; memory is its largest resident set without what Python and the
libraries take, pages of the mapped features among it. A line of JSON in the results file.
"""

import argparse
import json
import multiprocessing
import resource
import time
from pathlib import Path

import torch
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import save_file

HERE = Path(__file__).parent
NOISE_RATE = 0.2


def write_data(path: Path, images: int, size: int, classes: int) -> None:
    """``features`` and ``labels`` in one file."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(classes, (images,), generator=generator)
    centres = torch.randn(classes, size, generator=generator)
    features = torch.randn(images, size, generator=generator).add_(centres[clean], alpha=0.5).half()
    drawn = torch.randint(classes, (images,), generator=generator)
    is_drawn = torch.rand(images, generator=generator) < NOISE_RATE
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"features": features, "labels": torch.where(is_drawn, drawn, clean), "clean": clean}, path)


def measure(path: Path, classes: int) -> dict:
    """What one judgement takes."""
    from sklearn.metrics import roc_auc_score

    from lightning_noisy.audit.judging.by_features import judge_by_probe

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with safe_open(path, framework="pt") as file:
        features, labels, clean = (file.get_tensor(name) for name in ("features", "labels", "clean"))
    begun, cpu = time.perf_counter(), time.process_time()
    judged = judge_by_probe(features, labels, classes)
    seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - cpu
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    doubt = 1 - judged.noise.posterior.gather(1, labels[:, None]).squeeze(1)
    return {
        "images": len(features),
        "features": features.shape[1],
        "classes": classes,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "memory_gb": round(memory / 1e6, 2),
        "auc": round(float(roc_auc_score(labels != clean, doubt)), 4),
        "threads": torch.get_num_threads(),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--features", type=int, default=256)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--directory", type=Path, default=Path("runs/probe"), help="where the data are kept")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "probe_scale.jsonl", help="the results file")
    options = parser.parse_args(arguments)
    path = options.directory / f"{options.images}x{options.features}x{options.classes}.safetensors"
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply(write_data, (path, options.images, options.features, options.classes))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        line = pool.apply(measure, (path, options.classes))
    with options.output.open("a") as file:
        file.write(json.dumps(line) + "\n")
    Console().print(line, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
