"""The results of the denoising benchmark for people: a summary on the terminal, tables in Markdown, a picture."""

from collections import defaultdict
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from rich.console import Console
from rich.table import Table

REFERENCE, OURS = "cross-entropy", "noise layer"
CLEAN = ("uniform:0", "clean")
"""A cell whose name holds one of these words has no wrong labels."""

Results = dict[tuple[str, str], list[dict]]


def collect(lines: list[dict]) -> Results:
    """The lines of each (cell, method)."""
    found: Results = defaultdict(list)
    for line in lines:
        found[line["cell"], line["method"]].append(line)
    return found


def mean(lines: list[dict], name: str) -> float:
    """NaN where no line has a number."""
    values = [line[name] for line in lines if line[name] is not None]
    return float(np.mean(values)) if values else float("nan")


def deviation(lines: list[dict]) -> float:
    """Of the last epoch's accuracy over the seeds."""
    return float(np.std([line["last"] for line in lines]))


def is_clean(cell: str) -> bool:
    return any(word in cell.replace(",", "").split() for word in CLEAN)


def clean_twin(cell: str, cells: list[str]) -> str | None:
    """The cell with the same data and network and without wrong labels."""
    words = cell.replace(",", "").split()
    twins = [c for c in cells if is_clean(c) and len(other := c.replace(",", "").split()) == len(words)
             and sum(a != b for a, b in zip(words, other, strict=True)) == 1]  # fmt: skip
    return next(iter(twins), None)


def show(results: Results, cells: list[str], methods: list[str]) -> None:
    """Ours beside cross-entropy and the best of the others; how much of the gap to clean labels it recovers."""
    table = Table("cell", "cross-entropy", "best of the others", "noise layer", "of the gap", "lost")
    for cell in cells:
        if (cell, OURS) not in results or (cell, REFERENCE) not in results:
            continue
        plain, ours = mean(results[cell, REFERENCE], "last"), mean(results[cell, OURS], "last")
        others = {
            name: mean(results[cell, name], "last") for name in methods if name != OURS and (cell, name) in results
        }
        best = max(others, key=lambda name: others[name])
        share = gap(results, cell, cells, OURS)
        table.add_row(
            cell, f"{plain:.3f}", f"{others[best]:.3f} {best}", f"{ours:.3f} ± {deviation(results[cell, OURS]):.3f}",
            "" if share is None else f"{share:.0%}", str(sum(line["lost_classes"] for line in results[cell, OURS])),
        )  # fmt: skip
    Console().print(table)


def gap(results: Results, cell: str, cells: list[str], method: str) -> float | None:
    """The share that a method recovers of what cross-entropy loses to the wrong labels; ``None`` where none is lost."""
    twin = clean_twin(cell, cells)
    if is_clean(cell) or twin is None or not {(cell, REFERENCE), (twin, REFERENCE)} <= results.keys():
        return None
    plain, clean = mean(results[cell, REFERENCE], "last"), mean(results[twin, REFERENCE], "last")
    return (mean(results[cell, method], "last") - plain) / (clean - plain)


def means(results: Results, cells: list[str], methods: list[str]) -> list[list[str]]:
    """For each method its mean over the noisy cells that it and ours were trained in, and ours over the same."""
    rows = []
    for name in methods:
        shared = [cell for cell in cells if not is_clean(cell) and {(cell, name), (cell, OURS)} <= results.keys()]
        if not shared:
            continue
        averages = (np.mean([mean(results[cell, which], "last") for cell in shared]) for which in (name, OURS))
        gaps = [share for cell in shared if (share := gap(results, cell, cells, name)) is not None]
        share = f"{np.mean(gaps):.0%} ({len(gaps)})" if gaps else ""
        rows.append([name, str(len(shared)), *(f"{average:.3f}" for average in averages), share])
    return rows


def write_tables(results: Results, cells: list[str], methods: list[str], path: Path) -> None:
    """Markdown: a table for each thing that is measured, a row for each cell, a column for each method."""
    titles = {
        "last": "Clean test accuracy after the last epoch, mean ± standard deviation over the seeds",
        "best_noisy_val": "Clean test accuracy of the epoch with the best accuracy on held-out noisy labels",
        "matrix_error": "Error of the estimated T (mean total variation of its rows; `sampling`: by the true labels)",
        "calibration_error": "Expected calibration error on the clean test images, 15 bins",
        "cpu_seconds": "Processor time relative to cross-entropy",
    }
    parts = []
    for name, title in titles.items():
        shown = [m for m in methods if any(np.isfinite(mean(results[c, m], name)) for c in cells if (c, m) in results)]
        if name == "matrix_error":
            shown = [m for m in shown if m != "genie"]
        extra = ["sampling"] if name == "matrix_error" else ["seeds"] if name == "last" else []
        rows = [["cell", *extra, *shown], ["---", *["---:"] * (len(extra) + len(shown))]]
        for cell in [c for c in cells if (c, OURS) in results]:
            ours = results[cell, OURS]
            first = {"sampling": f"{mean(ours, 'sampling_error'):.2f}", "seeds": str(len(ours))}
            values = [_value(results, cell, method, name) for method in shown]
            rows.append([cell, *(first[key] for key in extra), *values])
        parts.append(_table(title, rows))
    head_row = ["method", "noisy cells", "its mean", "the noise layer's there", "of the gap (cells)"]
    rows = [head_row, ["---", *["---:"] * 4], *means(results, cells, methods)]
    parts.insert(1, _table("Means over the noisy cells, after the last epoch", rows))
    head = "# The denoising benchmark\n\nWritten by `python benchmarks/denoise.py` from `denoise.jsonl`.\n"
    path.write_text("\n".join([head, *parts]), encoding="utf-8")


def _table(title: str, rows: list[list[str]]) -> str:
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"## {title}\n\n{table}\n"


def _value(results: Results, cell: str, method: str, name: str) -> str:
    lines = results.get((cell, method), [])
    value = mean(lines, name) if lines else float("nan")
    if not np.isfinite(value):
        return ""
    if name == "cpu_seconds":
        return f"{value / mean(results[cell, REFERENCE], name):.2f}"
    if name == "matrix_error":
        return f"{value:.2f}"
    return f"{value:.3f} ± {deviation(lines):.3f}" if name == "last" else f"{value:.3f}"


def draw(results: Results, cells: list[str], methods: list[str], path: Path) -> None:
    """Accuracy of the last epoch: a row for each cell, a point for each method, ours on top."""
    shown = [cell for cell in cells if (cell, OURS) in results]
    figure, axes = plt.subplots(figsize=(9, 1.8 + 0.3 * len(shown)), layout="constrained")
    colours = plt.get_cmap("tab20")
    for number, name in enumerate(methods):
        points = [
            (place, mean(results[cell, name], "last")) for place, cell in enumerate(shown) if (cell, name) in results
        ]
        if points:
            places, accuracies = zip(*points, strict=True)
            is_ours = name == OURS
            axes.scatter(
                accuracies, places, s=70 if is_ours else 22, marker="*" if is_ours else "o", label=name,
                color="black" if is_ours else colours(number % 20), zorder=3 if is_ours else 2,
            )  # fmt: skip
    axes.set_yticks(range(len(shown)), shown)
    axes.invert_yaxis()
    axes.grid(axis="y", linewidth=0.4)
    axes.set_xlabel("clean test accuracy after the last epoch, mean over the seeds")
    figure.legend(loc="outside lower center", ncols=5, fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)
