"""The ways to audit labels from features alone."""

import warnings
from collections.abc import Callable

import numpy as np
import torch
from auditing.methods import Verdict, by_cleanlab
from auditing.predicting import Predicted
from sklearn.model_selection import StratifiedKFold
from torch import Tensor

from lightning_noisy.audit.judging.by_features import FOLDS, PROBE_ISSUE_BELOW, judge_by_probe
from lightning_noisy.audit.judging.scores import score_posterior
from lightning_noisy.features.neighbours import neighbour_shares
from lightning_noisy.features.probe import FoldedProbe, choose_strength


def product(features: Tensor, labels: Tensor, seed: int) -> Verdict:
    """What ``lightning-noisy audit --backbone`` does."""
    judged = judge_by_probe(features, labels, _classes(labels), seed=seed)
    scored = score_posterior(judged.noise.posterior, judged.noise.clean_log_probs, labels, PROBE_ISSUE_BELOW)
    is_taken = scored.is_issue & (scored.p_suggested > scored.p_given)
    found = [values.numpy() for values in (scored.p_given, scored.is_issue, scored.suggested_label, is_taken)]
    return Verdict(*found, error=judged.errors.value, interval=(judged.errors.low, judged.errors.high))


def cleanlab_regularised(features: Tensor, labels: Tensor, seed: int) -> Verdict:
    """cleanlab on the very probe that the product looks at first: C chosen by cross-validation on the given labels."""
    chosen = choose_strength(_probe(features, labels, seed), labels)
    return _cleanlab(chosen.log_probs, labels)


def cleanlab_default(features: Tensor, labels: Tensor, seed: int) -> Verdict:
    """cleanlab on a logistic regression as scikit-learn has it by default (C = 1, standardised features)."""
    probe = _probe(features, labels, seed)
    strength = FOLDS / ((FOLDS - 1) * features.shape[0] * features.shape[1])
    probe.fit(labels, strength, steps=100)
    return _cleanlab(probe.out_of_fold(), labels)


def cleanlab_neighbours(features: Tensor, labels: Tensor, seed: int) -> Verdict:
    """cleanlab on the shares of the labels among the 30 nearest other images."""
    shares = neighbour_shares(features, labels, _classes(labels), k=30, seed=seed)
    return _cleanlab((shares + 1e-3).log(), labels)


def datalab(features: Tensor, labels: Tensor, seed: int) -> Verdict:
    """cleanlab's Datalab as it comes, given features alone."""
    from cleanlab import Datalab

    lab = Datalab({"label": labels.numpy()}, label_name="label", verbosity=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lab.find_issues(features=features.float().numpy(), issue_types={"label": {}})
    found = lab.get_issues("label")
    issues = found["is_label_issue"].to_numpy()
    suggested = found["predicted_label"].to_numpy()
    return Verdict(found["label_score"].to_numpy(), issues, suggested, issues, float(issues.mean()))


def voting(features: Tensor, labels: Tensor, seed: int) -> Verdict:
    """A label is wrong where most of the 10 nearest other images have another one.

    Source: Zhu, Dong, Liu 2022, *Detecting Corrupted Labels Without Training a Model to Predict* (SimiFeat-V), here
    without its repetitions on augmented features.
    """
    shares = neighbour_shares(features, labels, _classes(labels), k=10, seed=seed)
    suggested = shares.argmax(dim=1)
    issues = (suggested != labels).numpy()
    quality = shares.gather(1, labels[:, None]).squeeze(1).numpy()
    return Verdict(quality, issues, suggested.numpy(), issues, float(issues.mean()))


METHODS: dict[str, Callable[[Tensor, Tensor, int], Verdict]] = {
    "lightning-noisy": product,
    "cleanlab, probe, C by cross-validation": cleanlab_regularised,
    "cleanlab, probe, C = 1": cleanlab_default,
    "cleanlab, 30 neighbours": cleanlab_neighbours,
    "Datalab": datalab,
    "voting of 10 neighbours": voting,
}


def _probe(features: Tensor, labels: Tensor, seed: int) -> FoldedProbe:
    fold_of = np.empty(len(labels), dtype=np.int64)
    splitter = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    for fold, (_, rows) in enumerate(splitter.split(fold_of, labels.numpy())):
        fold_of[rows] = fold
    return FoldedProbe(features, torch.from_numpy(fold_of), _classes(labels))


def _cleanlab(log_probs: Tensor, labels: Tensor) -> Verdict:
    return by_cleanlab(Predicted(log_probs, torch.zeros(len(labels)), [None]), labels, "self_confidence")


def _classes(labels: Tensor) -> int:
    return int(labels.max()) + 1
