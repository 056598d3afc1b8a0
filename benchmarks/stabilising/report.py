"""Tables and a picture of the stability benchmark: how far from cross-entropy, how often below it, lost classes."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from stabilising.configurations import NEVER_CHOSEN_ON, draw
from stabilising.training import COMPARED

HARM = 0.02
"""A training is harmed when its accuracy is further than this below both trainings by cross-entropy."""
FURTHER = 3
"""From this seed on trainings are further ones of configurations that were harmed; the tables do not have them."""
THIRD = "cross-entropy, third seed"
"""The row that chance alone would give."""
METHODS = (THIRD, *COMPARED[1:])
HEADINGS = (
    "method", "trainings", "clean: difference", "noisy: accuracy", "noisy: difference", "worst", "harmed",
    "lost a class", "better by .02",
)  # fmt: skip


def by_configuration(lines: Iterable[dict[str, Any]]) -> dict[int, dict[str, dict[str, Any]]]:
    """Number -> method -> its line; the three trainings by cross-entropy have names of their own."""
    found: dict[int, dict[str, dict[str, Any]]] = defaultdict(dict)
    for line in lines:
        if line["seed"] >= FURTHER:
            continue
        name = line["method"]
        if name == "cross-entropy":
            name = ("cross-entropy", "cross-entropy, second seed", THIRD)[line["seed"]]
        found[line["number"]][name] = line
    return found


def differences(lines: Iterable[dict[str, Any]], method: str) -> list[dict[str, Any]]:
    """Of each configuration that has all it takes: the difference to the mean of two trainings by cross-entropy."""
    rows = []
    for number, methods in by_configuration(lines).items():
        pair = [methods[name] for name in ("cross-entropy", "cross-entropy, second seed") if name in methods]
        if len(pair) < 2 or method not in methods:
            continue
        line, accuracies = methods[method], [other["accuracy"] for other in pair]
        kept_by_both = set(range(line["num_classes"])) - set(pair[0]["lost"]) - set(pair[1]["lost"])
        rows.append(
            {
                "configuration": draw(number),
                "accuracy": line["accuracy"],
                "difference": line["accuracy"] - float(np.mean(accuracies)),
                "below_both": min(accuracies) - line["accuracy"],
                "lost": sorted(kept_by_both & set(line["lost"])),
                "share": line["share"],
            }
        )
    return rows


def harmed_numbers(lines: Iterable[dict[str, Any]]) -> list[int]:
    """The configurations in which the noise layer was harmed."""
    rows = differences(lines, "noise layer")
    return [row["configuration"].number for row in rows if row["below_both"] > HARM]


def further_differences(lines: list[dict[str, Any]]) -> dict[int, list[float]]:
    """Of the configurations that were harmed: the noise layer's accuracy less cross-entropy's, of each further seed."""
    accuracies = {(line["number"], line["method"], line["seed"]): line["accuracy"] for line in lines}
    return {
        number: [
            accuracy - accuracies[number, "cross-entropy", seed]
            for (of, method, seed), accuracy in accuracies.items()
            if of == number and method == "noise layer" and seed >= FURTHER
            if (number, "cross-entropy", seed) in accuracies
        ]
        for number in harmed_numbers(lines)
    }


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """The cells of a method's row in the table."""
    clean = [row["difference"] for row in rows if not row["configuration"].is_noisy]
    noisy = [row for row in rows if row["configuration"].is_noisy]
    worst = max((row["below_both"] for row in rows), default=0.0)
    return [
        str(len(rows)),
        f"{np.mean(clean):+.4f}" if clean else "",
        f"{np.mean([row['accuracy'] for row in noisy]):.3f}" if noisy else "",
        f"{np.mean([row['difference'] for row in noisy]):+.4f}" if noisy else "",
        f"{-worst:+.3f}",
        str(sum(row["below_both"] > HARM for row in rows)),
        str(sum(bool(row["lost"]) for row in rows)),
        str(sum(row["difference"] > HARM for row in rows)),
    ]


def groups(lines: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """What the tables are about."""
    complete = {number for number, methods in by_configuration(lines).items() if {*METHODS} <= methods.keys()}
    of = {"all": lines, "where all methods are trained": [line for line in lines if line["number"] in complete]}
    of["data that no number was chosen on"] = [line for line in lines if line["data"] in NEVER_CHOSEN_ON]
    for kind in ("trainer", "data"):
        for name in sorted({line[kind] for line in lines}):
            of[f"{kind}: {name}"] = [line for line in lines if line[kind] == name]
    return of


def show(lines: list[dict[str, Any]]) -> None:
    table = Table(*HEADINGS, title="Against cross-entropy")
    for method in METHODS:
        table.add_row(method, *summary(differences(lines, method)))
    Console().print(table)


def write_tables(lines: list[dict[str, Any]], path: Path) -> None:
    """A table for each group, and each training that was harmed."""
    text = [
        "# Stability",
        "",
        "Written by `python benchmarks/stability.py`. Clean test accuracy after the last epoch; *difference* is to the "
        "mean of two trainings by cross-entropy, *worst* and *harmed* (more than .02) are against the lower of them, "
        "*lost a class* is one that both keep. The first row is what chance alone gives.",
    ]
    for name, group in groups(lines).items():
        text += ["", f"## {name}", "", f"| {' | '.join(HEADINGS)} |", "|---" * len(HEADINGS) + "|"]
        for method in METHODS:
            rows = differences(group, method)
            if rows:
                text.append(f"| {method} | {' | '.join(summary(rows))} |")
    text += [
        "",
        "## Harmed, or a class lost, by the noise layer",
        "",
        "| below cross-entropy | lost | share | configuration |",
    ]
    text.append("|---|---|---|---|")
    for row in sorted(differences(lines, "noise layer"), key=lambda row: -row["below_both"]):
        if row["below_both"] > HARM or row["lost"]:
            said = ", ".join(f"{name} {value}" for name, value in row["configuration"].to_dict().items())
            text.append(f"| {row['below_both']:.3f} | {len(row['lost'])} | {row['share']} | {said} |")
    text += tables_of_further_seeds(lines)
    path.write_text("\n".join(text) + "\n", encoding="utf-8")


def tables_of_further_seeds(lines: list[dict[str, Any]]) -> list[str]:
    """What the harmed configurations do with seeds that nobody has looked at; nothing where there are none."""
    found = {number: values for number, values in further_differences(lines).items() if len(values) > 1}
    if not found:
        return []
    text = [
        "",
        "## The harmed ones again",
        "",
        "Pairs of further seeds: the mean difference to cross-entropy, its standard error, and how many of the pairs "
        "are more than .02 apart for the worse.",
        "",
        "| configuration | pairs | mean difference | standard error | more than .02 worse |",
        "|---|---|---|---|---|",
    ]
    for number, values in sorted(found.items(), key=lambda item: float(np.mean(item[1]))):
        error = np.std(values, ddof=1) / len(values) ** 0.5
        worse = sum(value < -HARM for value in values)
        text.append(f"| {number} | {len(values)} | {np.mean(values):+.4f} | {error:.4f} | {worse} |")
    return text


def draw_picture(lines: list[dict[str, Any]], path: Path) -> None:
    """The distribution of the difference to cross-entropy, a curve for each method, and its lower end enlarged."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    whole, low = figure.subplots(1, 2)
    for method in METHODS:
        values = np.sort([row["difference"] for row in differences(lines, method)])
        if not len(values):
            continue
        style = {"color": "0.6", "linestyle": "--"} if method == THIRD else {}
        style |= {"linewidth": 3, "color": "C3", "zorder": 5} if method == "noise layer" else {}
        for axes in (whole, low):
            axes.plot(values, (np.arange(len(values)) + 1) / len(values), label=method, **style)
    for axes in (whole, low):
        axes.axvline(0, color="0.8", linewidth=1)
        axes.set_xlabel("accuracy minus that of cross-entropy")
        axes.set_ylabel("share of the trainings at or below")
        axes.grid(alpha=0.3)
    whole.set_title("All trainings: further right is better")
    low.set_title("The lower end: harm")
    low.set_xlim(-0.3, 0.02)
    low.set_ylim(0, 0.4)
    whole.legend(loc="upper left")
    figure.savefig(path, dpi=120)
