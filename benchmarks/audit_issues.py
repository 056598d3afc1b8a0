"""Images of no class among those of an audit: which score finds them.

    python benchmarks/audit_issues.py --data-dir DIR            # DIR as for audit_features.py
    python benchmarks/audit_issues.py --data-dir DIR --quick    # one cell, one seed, to see that it runs

A twentieth of the images are strangers, whose labels are drawn at random: of one sort, some of each sort, or images of
two classes that the audit does not know. A line of JSON for each score in each cell with each seed, and a table:
AUROC, and where a score comes with a threshold the shares of strangers and of others that it flags. All features are
the same. The thresholds of ours were chosen on other images and with the other backbone (see the code).
"""

import argparse
import json
import warnings
from pathlib import Path

import numpy as np
import torch
from auditing.frozen import frozen_features
from auditing.strangers import DRAWN, FEW, HELD_OUT, strangers
from rich.console import Console
from sklearn.metrics import roc_auc_score
from torch import Tensor

from lightning_noisy.audit.issues.outliers import IS_OUTLIER_BELOW, outlier_scores
from lightning_noisy.audit.judging.by_features import judge_by_probe
from lightning_noisy.noise.synthetic import corrupt_labels, transition_matrix_from_spec

HERE = Path(__file__).parent
BACKBONE = "efficientnet_lite0"
SHARE = 0.05
INTO = {"cifar10n": "worse", "mnist": "uniform:0.3"}
CELLS = [
    *(
        (data, sort)
        for data, other in (("cifar10n", "mnist"), ("mnist", "cifar10n"))
        for sort in (other, *DRAWN, "some of each")
    ),
    *(("cifar10n", name) for name in HELD_OUT),
]


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with npz files, mnist/ and weights")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds, from 0 on")
    parser.add_argument("--images", type=int, default=2000, help="images of a seed")
    parser.add_argument("--quick", action="store_true", help="a smoke run; not kept by default")
    parser.add_argument("--output", type=Path, help="the results file")
    options = parser.parse_args(arguments)
    name = "audit_issues.jsonl"
    options.output = options.output or (Path("runs") / name if options.quick else HERE / "results" / name)
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse_options(arguments)
    cells = CELLS
    if options.quick:
        cells, options.seeds, options.images = CELLS[1:2], 1, 400
    options.output.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in options.output.open()] if options.output.is_file() else []
    done = {(line["data"], line["strangers"], line["seed"]) for line in lines}
    for seed in range(options.seeds):
        for data, sort in cells:
            if (data, sort, seed) not in done:
                lines += run(data, sort, seed, options)
    text = table(lines)
    options.output.with_suffix(".md").write_text(text, encoding="utf-8")
    Console().print(text, markup=False, highlight=False)


def run(data: str, sort: str, seed: int, options: argparse.Namespace) -> list[dict]:
    """The lines of all scores in one cell, which are written as soon as they are known."""
    features, labels, is_stranger = mixed(data, sort, seed, options)
    lines = []
    for name, (scores, flags) in scored(features, labels, seed).items():
        line = {"data": data, "strangers": sort, "seed": seed, "score": name}
        line["auroc"] = round(float(roc_auc_score(is_stranger, -scores)), 4)
        if flags is not None:
            line["found"], line["flagged_others"] = (
                round(float(flags[rows].mean()), 4) for rows in (is_stranger, ~is_stranger)
            )
        lines.append(line)
    with options.output.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    return lines


def mixed(data: str, sort: str, seed: int, options: argparse.Namespace) -> tuple[Tensor, Tensor, np.ndarray]:
    """Features (N, D), given labels (N,), and which images are strangers."""
    features, columns = frozen_features(data, BACKBONE, options.data_dir, seed, options.images)
    clean, spec = columns["clean"], INTO[data]
    labels = (
        columns[spec]
        if spec in columns
        else torch.as_tensor(np.asarray(corrupt_labels(clean, transition_matrix_from_spec(spec, 10, seed), seed)))
    )
    generator = np.random.default_rng(seed)
    if sort in HELD_OUT:
        is_held_out = np.isin(clean.numpy(), HELD_OUT[sort])
        others = features[generator.permutation(np.flatnonzero(is_held_out))[: int(SHARE * len(features))]]
        is_known = ~is_held_out & ~np.isin(labels.numpy(), HELD_OUT[sort])
        features, labels = features[is_known], torch.unique(labels[is_known], return_inverse=True)[1]
    elif sort == "some of each":
        sorts = [other for _, other in CELLS[:6] if other != "some of each"]
        others = torch.cat([strangers(each, BACKBONE, options.data_dir, seed)[:FEW] for each in sorts])
    else:
        others = strangers(sort, BACKBONE, options.data_dir, seed)[: int(SHARE * len(features))]
    drawn = torch.from_numpy(generator.integers(0, int(labels.max()) + 1, len(others)))
    is_stranger = np.arange(len(features) + len(others)) >= len(features)
    return torch.cat([features, others]), torch.cat([labels, drawn]), is_stranger


def scored(features: Tensor, labels: Tensor, seed: int) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """Scores, the lower, the stranger, and which images are flagged."""
    from cleanlab import Datalab

    judged = judge_by_probe(features, labels, int(labels.max()) + 1, seed=seed)
    fold_of, k = judged.fold_of, judged.neighbours
    ours = outlier_scores(features, judged.neighbour_shares, labels, fold_of, k).numpy()
    lab = Datalab({"label": labels.numpy()}, label_name="label", verbosity=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lab.find_issues(features=features.float().numpy(), issue_types={"outlier": {}})
    datalab = lab.get_issues("outlier")
    return {
        "lightning-noisy": (ours, ours < IS_OUTLIER_BELOW),
        "Datalab": (datalab["outlier_score"].to_numpy(), datalab["is_outlier_issue"].to_numpy()),
        "maximum softmax": (judged.noise.clean_log_probs.amax(dim=1).numpy(), None),
        "entropy of the softmax": (
            (judged.noise.clean_log_probs.exp() * judged.noise.clean_log_probs).sum(dim=1).numpy(),
            None,
        ),
    }


def table(lines: list[dict]) -> str:
    """Means over the seeds, in Markdown."""
    scores = list(dict.fromkeys(line["score"] for line in lines))
    rows = [f"| into | strangers | {' | '.join(scores)} | ours flags of strangers | others | Datalab flags | others |"]
    rows.append("|---" * (len(scores) + 6) + "|")
    for data, sort in dict.fromkeys((line["data"], line["strangers"]) for line in lines):
        mine = [line for line in lines if (line["data"], line["strangers"]) == (data, sort)]

        def mean(score: str, name: str, mine: list[dict] = mine) -> float:
            return float(np.mean([line[name] for line in mine if line["score"] == score]))

        aurocs = [mean(score, "auroc") for score in scores]
        words = [f"**{value:.3f}**" if value == max(aurocs) else f"{value:.3f}" for value in aurocs]
        flagged = [
            f"{mean(s, name):.1%}" for s in ("lightning-noisy", "Datalab") for name in ("found", "flagged_others")
        ]
        rows.append(f"| {data} | {sort} | {' | '.join(words)} | {' | '.join(flagged)} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    main()
