"""The results of the audit's benchmark for people: a summary on the terminal, tables in Markdown, a picture."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from denoising.report import Results, mean
from rich.console import Console
from rich.table import Table

OURS, RIVAL = "noise layer", "cleanlab, 5 folds, self-confidence"
TITLES = {
    "auc": "Area under the ROC curve of the ranking",
    "average_precision": "Average precision of the ranking",
    "precision_at_k": "Precision among the k most suspicious, k the true number of wrong labels",
    "f1": "F1 of `is_issue`",
    "right_suggestions": "Share of the flagged labels whose suggestion is the true class",
    "put_right": "Share of the wrong labels that relabelling puts right",
    "error_after": "Share of wrong labels after relabelling (`before`: as given)",
    "flagged": "Share of the labels that are flagged (`true`: that are wrong)",
    "error_estimated": "Estimated share of wrong labels (`true`: counted)",
    "cpu_seconds": "Processor time of the training relative to one training by cross-entropy",
}
BESIDE = {"auc": "seeds", "flagged": "true", "error_after": "before", "error_estimated": "true"}
"""A first column of a table: how many seeds, or the true share of wrong labels."""
DRAWN = ("average_precision", "precision_at_k", "f1", "error_after")


def show(results: Results, cells: list[str]) -> None:
    """Ours beside five folds of cleanlab."""
    names = {"auc": "AUC", "average_precision": "AP", "precision_at_k": "P at k", "f1": "F1", "error_after": "error"}
    table = Table("cell", "before", *(f"{title}: cleanlab, ours" for title in names.values()))
    for cell in cells:
        if (cell, OURS) in results and (cell, RIVAL) in results:
            pairs = [[mean(results[cell, method], name) for method in (RIVAL, OURS)] for name in names]
            before = f"{mean(results[cell, OURS], 'error_before'):.3f}"
            table.add_row(cell, before, *(f"{rival:.3f}, {ours:.3f}" for rival, ours in pairs))
    Console().print(table)


def write_tables(results: Results, cells: list[str], methods: list[str], path: Path) -> None:
    """Markdown: a table for each thing that is measured, a row for each cell, a column for each method."""
    parts = []
    for name, title in TITLES.items():
        extra = {"error_after": ["before"], "error_estimated": ["true"], "flagged": ["true"], "auc": ["seeds"]}.get(
            name, []
        )
        rows = [["cell", *extra, *methods], ["---", *["---:"] * (len(extra) + len(methods))]]
        for cell in [cell for cell in cells if (cell, OURS) in results]:
            ours = results[cell, OURS]
            first = f"{len(ours)}" if extra == ["seeds"] else f"{mean(ours, 'error_before'):.3f}"
            values = [_value(results, cell, method, name) for method in methods]
            if any(values):
                rows.append([cell, *([first] if extra else []), *values])
        table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        parts.append(f"## {title}\n\n{table}\n")
    head = "# The audit's benchmark\n\nWritten by `python benchmarks/audit.py` from `audit.jsonl`.\n"
    path.write_text("\n".join([head, *parts]), encoding="utf-8")


def feature_tables(lines: list[dict], methods: list[str]) -> str:
    """Markdown of the audits by features: a table for each measure, and how often the error rate's interval holds."""
    cells = list(dict.fromkeys(line["cell"] for line in lines))
    parts = ["# Audits by features", "Written by `python benchmarks/audit_features.py` from `audit_features.jsonl`."]
    for name, title in TITLES.items():
        seconds = name == "cpu_seconds"
        rows = [["cell", "wrong", *methods], ["---"] + ["---:"] * (len(methods) + 1)]
        for cell in cells:
            own = [line for line in lines if line["cell"] == cell]
            found = {method: [line for line in own if line["method"] == method] for method in methods}
            values = [_number(found[method], name) for method in methods]
            if any(values):
                rows.append([cell, _number(found[methods[0]], "error_before"), *values])
        table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        parts += [f"## {'Seconds of the processor' if seconds else title.split(' (')[0]}", table]
    told = [line for line in lines if "error_low" in line]
    held = sum(line["error_low"] <= line["error_before"] <= line["error_high"] for line in told)
    parts.append(f"The true share of wrong labels lies in the interval that is told in {held} of {len(told)} audits.")
    return "\n\n".join(parts) + "\n"


def _number(lines: list[dict], name: str) -> str:
    values = [line[name] for line in lines if line.get(name) is not None]
    if not values:
        return ""
    return f"{np.mean(values):.3f}" + (f" ± {np.std(values):.3f}" if len(values) > 1 and name != "error_before" else "")


def _value(results: Results, cell: str, method: str, name: str) -> str:
    """The mean over the seeds, with the standard deviation for the ranking's precision; empty where there is none."""
    lines = results.get((cell, method), [])
    value = mean(lines, name) if lines else float("nan")
    if not np.isfinite(value):
        return ""
    if name == "cpu_seconds":
        plain = results.get((cell, "cross-entropy, in sample"), [])
        return f"{value / mean(plain, name):.2f}" if plain else ""
    if name in ("average_precision", "f1") and len(lines) > 1:
        return f"{value:.3f} ± {np.std([line[name] for line in lines]):.3f}"
    return f"{value:.3f}"


def draw(results: Results, cells: list[str], methods: list[str], path: Path) -> None:
    """A panel for each measure, a row for each cell, a point for each method, ours on top."""
    shown = [cell for cell in cells if (cell, OURS) in results]
    figure, panels = plt.subplots(
        1, len(DRAWN), figsize=(15, 1.8 + 0.32 * len(shown)), sharey=True, layout="constrained"
    )
    for panel, name in zip(panels, DRAWN, strict=True):
        for number, method in enumerate(methods):
            found = {place: mean(results[cell, method], name) for place, cell in enumerate(shown)
                     if (cell, method) in results}  # fmt: skip
            is_ours = method == OURS
            panel.scatter(
                list(found.values()), list(found), s=80 if is_ours else 24, marker="*" if is_ours else "o",
                color="black" if is_ours else plt.get_cmap("tab10")(number), zorder=3 if is_ours else 2,
                label=method if panel is panels[0] else None,
            )  # fmt: skip
        if name == "error_after":
            before = [mean(results[cell, OURS], "error_before") for cell in shown]
            panel.scatter(before, range(len(shown)), s=120, marker="|", color="red", label="labels as given")
        panel.grid(axis="y", linewidth=0.4)
        panel.set_xlabel(TITLES[name].split(" (")[0].split(",")[0].replace("`", ""))
    panels[0].set_yticks(range(len(shown)), shown)
    panels[0].invert_yaxis()
    figure.legend(loc="outside lower center", ncols=4, fontsize="small")
    figure.savefig(path, dpi=110)
    plt.close(figure)
