"""What a probe of ever weaker features would make of labels, and where LabelRefinement steps aside.

    python benchmarks/refinement_guard.py --data-dir DIR      # two minutes on one core; DIR as for denoise.py

The features are random subsets of a MobileNet's for 4,000 images of CIFAR-10N, those on which the guard was chosen.
"""

import argparse
import itertools
import json
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file

from lightning_noisy.audit.judging.by_features import judge_by_probe
from lightning_noisy.audit.judging.refinement import reason_to_step_aside
from lightning_noisy.noise.synthetic import corrupt_labels, transition_matrix_from_spec

RESULTS = Path(__file__).parent / "results" / "refinement_guard.jsonl"
IMAGES, CLASSES, SEED = 4000, 10, 99
SIZES = (20, 80, 300, 1280)
NOISES = ("uniform:0", "uniform:0.4", "pair:0.3")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with cifar10n_features.safetensors")
    parser.add_argument("--output", type=Path, default=RESULTS, help="the results file")
    options = parser.parse_args()
    data = load_file(options.data_dir / "cifar10n_features.safetensors")
    generator = torch.Generator().manual_seed(SEED)
    rows = torch.randperm(len(data["train"]), generator=generator)[:IMAGES]
    features, clean = data["train"][rows], data["clean"][rows]
    lines = []
    for size, noise in itertools.product(SIZES, NOISES):
        chosen = torch.randperm(features.shape[1], generator=generator)[:size]
        matrix = transition_matrix_from_spec(noise, CLASSES, SEED)
        noisy = torch.from_numpy(corrupt_labels(clean.numpy(), matrix, SEED))
        judged = judge_by_probe(features[:, chosen], noisy, CLASSES)
        log_probs, errors = judged.noise.clean_log_probs, judged.errors.value
        reason = reason_to_step_aside(log_probs, errors, noisy, torch.bincount(noisy, minlength=CLASSES))
        lines.append({
            "features": size, "noise": noise, "labels_right": _share(noisy == clean),
            "refined_right": _share(judged.noise.posterior.argmax(dim=1) == clean),
            "sure": round(float(log_probs.exp().amax(dim=1).mean()), 3), "errors": round(errors, 3),
            "steps_aside": bool(reason),
        })  # fmt: skip
    options.output.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    table = Table(*lines[0])
    for line in lines:
        table.add_row(*map(str, line.values()))
    Console().print(table)


def _share(is_right: torch.Tensor) -> float:
    return round(float(is_right.double().mean()), 3)


if __name__ == "__main__":
    main()
