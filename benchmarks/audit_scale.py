"""Time and memory of ranking given labels by probabilities that are there already, beside cleanlab on the same file.

    python benchmarks/audit_scale.py                    # 10,000,000 x 10 and 1,000,000 x 1,000: 4.4 GB in --directory
    python benchmarks/audit_scale.py --quick            # 100,000 x 10, to see that it runs

Each method runs in a process of its own on the file of probabilities (N, K), float32, and the labels. Ours writes the
whole audit (scores, ranking, ids and class names in audit.parquet, the flagged rows in issues.csv), and alone what
cleanlab gives, the indices of the issues in memory; cleanlab's batched mode is the one for little memory. Memory is the
largest resident set of the process without what Python and the libraries take before the data come. A line of JSON
each; a run that is already in the results file is not repeated.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
SIZES = {"10M x 10": (10_000_000, 10), "1M x 1000": (1_000_000, 1000)}
QUICK = {"100k x 10": (100_000, 10)}
NOISE_RATE = 0.2
CHUNK_VALUES = 1_000_000


def write_data(folder: Path, rows: int, classes: int) -> None:
    """``probabilities.f32`` and ``labels.npy``: a good network, a fifth of the labels replaced."""
    if (folder / "labels.npy").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    labels = generator.integers(0, classes, rows)
    chunk = CHUNK_VALUES // classes
    with (folder / "probabilities.f32").open("wb") as file:
        for first in range(0, rows, chunk):
            clean = labels[first : first + chunk]
            logits = generator.standard_normal((len(clean), classes), dtype=np.float32)
            logits[np.arange(len(clean)), clean] += 3 + np.log(classes)
            probabilities = np.exp(logits)
            probabilities /= probabilities.sum(axis=1, keepdims=True)
            file.write(probabilities.tobytes())
    wrong = generator.random(rows) < NOISE_RATE
    labels[wrong] = generator.integers(0, classes, int(wrong.sum()))
    np.save(folder / "labels.npy", labels)


def ours(folder: Path, rows: int, classes: int) -> int:
    """The product's own scoring, parts and ranking; the number of issues."""
    import pyarrow as pa

    from lightning_noisy.audit.files_for_people import write_issues
    from lightning_noisy.audit.judging.scores import score_labels
    from lightning_noisy.audit.ranking import label_sums, write_ranking
    from lightning_noisy.audit.run import AUDIT_FILES
    from lightning_noisy.audit.schema import PART_SCHEMA
    from lightning_noisy.inference.parts import PartWriter, begin

    output = folder / "audit"
    shutil.rmtree(output, ignore_errors=True)
    begin(output, "scale", True, AUDIT_FILES)
    labels, matrix = np.load(folder / "labels.npy", mmap_mode="r"), evidence(classes)
    writer = PartWriter(output, PART_SCHEMA)
    chunk = CHUNK_VALUES // classes
    with (folder / "probabilities.f32").open("rb") as file:
        for first in range(0, rows, chunk):
            part = torch.from_numpy(np.array(labels[first : first + chunk]))
            values = np.fromfile(file, np.float32, len(part) * classes).reshape(-1, classes)
            scored = score_labels(torch.from_numpy(values).log_(), part, matrix)
            positions = np.arange(first, first + len(part))
            ids = pa.array(positions).cast(pa.string())
            named = {"position": positions, "id": ids, "path": ids, "row": positions, "given_label": part.numpy()}
            columns = {name: value.numpy() for name, value in scored._asdict().items()}
            writer.add({**named, **columns, "split": pa.repeat("train", len(part))})
    writer.flush()
    write_ranking(output, [f"class {label}" for label in range(classes)], rows, with_probabilities=False)
    sums = label_sums(output, classes)
    write_issues(output)
    return int(sums.flagged.sum())


def ours_in_memory(folder: Path, rows: int, classes: int) -> int:
    """What cleanlab does: the indices of the issues, the most suspicious first; nothing is written."""
    from lightning_noisy.audit.judging.scores import score_labels

    labels, matrix = np.load(folder / "labels.npy"), evidence(classes)
    p_given, is_issue = np.empty(rows, np.float32), np.empty(rows, bool)
    chunk = CHUNK_VALUES // classes
    with (folder / "probabilities.f32").open("rb") as file:
        for first in range(0, rows, chunk):
            part = slice(first, min(first + chunk, rows))
            values = np.fromfile(file, np.float32, (part.stop - first) * classes).reshape(-1, classes)
            scored = score_labels(torch.from_numpy(values).log_(), torch.from_numpy(labels[part]), matrix)
            p_given[part], is_issue[part] = scored.p_given.numpy(), scored.is_issue.numpy()
    issues = np.flatnonzero(is_issue)
    return len(issues[np.argsort(p_given[issues], kind="stable")])


def evidence(classes: int) -> torch.Tensor:
    """What a given label says of the true one, where a fifth of the labels was drawn anew."""
    from lightning_noisy.audit.judging.scores import label_evidence

    return label_evidence(torch.ones(classes, classes) + (1 / NOISE_RATE - 1) * classes * torch.eye(classes))


def cleanlab_whole(folder: Path, rows: int, classes: int) -> int:
    from cleanlab.filter import find_label_issues

    labels = np.load(folder / "labels.npy")
    probabilities = np.fromfile(folder / "probabilities.f32", np.float32).reshape(rows, classes)
    return len(find_label_issues(labels, probabilities, return_indices_ranked_by="self_confidence"))


def cleanlab_batched(folder: Path, rows: int, classes: int) -> int:
    from cleanlab.experimental.label_issues_batched import find_label_issues_batched

    labels = np.load(folder / "labels.npy")
    probabilities = np.memmap(folder / "probabilities.f32", np.float32, "r", shape=(rows, classes))
    return len(find_label_issues_batched(labels=labels, pred_probs=probabilities, verbose=False))


METHODS: dict[str, Callable[[Path, int, int], int]] = {
    "ours, indices in memory": ours_in_memory,
    "ours, whole audit with its files": ours,
    "cleanlab, indices in memory": cleanlab_whole,
    "cleanlab, batched, indices in memory": cleanlab_batched,
}


def measure(method: str, folder: Path, rows: int, classes: int) -> dict:
    """Runs in a process of its own; a line of results."""
    import cleanlab.experimental.label_issues_batched
    import cleanlab.filter  # noqa: F401

    import lightning_noisy.audit.judging.by_model  # noqa: F401

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    issues = METHODS[method](folder, rows, classes)
    seconds = time.perf_counter() - start
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {
        "method": method,
        "seconds": round(seconds, 1),
        "memory_gb": round((max(own, children) - before) * 1024 / 1e9, 2),
        "issues": issues,
        "cores": os.cpu_count(),
    }


def show(lines: list[dict]) -> None:
    table = Table("size", "method", "seconds", "memory (GB)", "issues")
    for line in lines:
        table.add_row(line["size"], line["method"], f"{line['seconds']}", f"{line['memory_gb']}", str(line["issues"]))
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, default=Path("runs/audit_scale"), help="where the data are made")
    parser.add_argument("--quick", action="store_true", help="a smoke run; not kept by default")
    parser.add_argument("--output", type=Path, help="the results file, benchmarks/results/audit_scale.jsonl by default")
    parser.add_argument("--one", nargs=2, metavar=("SIZE", "METHOD"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = QUICK if options.quick else SIZES
    if options.one:
        size, method = options.one
        print(json.dumps(measure(method, options.directory / size.replace(" ", ""), *sizes[size])))
        return
    name = "audit_scale_quick.jsonl" if options.quick else "audit_scale.jsonl"
    output = options.output or (Path("runs") / name if options.quick else HERE / "results" / name)
    output.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in output.open()] if output.is_file() else []
    for size, shape in sizes.items():
        write_data(options.directory / size.replace(" ", ""), *shape)
        for method in METHODS:
            if any((line["size"], line["method"]) == (size, method) for line in lines):
                continue
            command = [sys.executable, __file__, "--directory", str(options.directory), "--one", size, method]
            done = subprocess.run(command + ["--quick"] * options.quick, capture_output=True, text=True)
            if done.returncode:
                print(f"{method} on {size} ended with status {done.returncode}: {done.stderr[-2000:]}", file=sys.stderr)
                continue
            lines.append({"size": size, **json.loads(done.stdout.splitlines()[-1])})
            with output.open("a") as file:
                file.write(json.dumps(lines[-1]) + "\n")
    show(lines)


if __name__ == "__main__":
    main()
