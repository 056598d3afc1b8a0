"""The ways to audit labels: which are suspicious, which are wrong, what they should be."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from auditing.predicting import FOLDS, Predicted, Predictions
from torch import Tensor

from lightning_noisy.audit.judging.scores import label_evidence, score_labels


@dataclass
class Verdict:
    """What a method says of ``N`` labels; all are (N,).

    Args:
        quality: The lower, the more suspicious.
        is_issue: Whether the label is held to be wrong.
        suggested: What it should be; looked at where ``is_issue`` alone.
        is_taken: Whether relabelling takes the suggestion.
        error: The estimated share of wrong labels.
        interval: Between which it lies, where the method says so.
    """

    quality: np.ndarray
    is_issue: np.ndarray
    suggested: np.ndarray
    is_taken: np.ndarray
    error: float
    interval: tuple[float, float] | None = None


def by_posterior(predicted: Predicted, labels: Tensor) -> Verdict:
    """The product: the posterior of the given label, with what the network's own training has counted.

    Relabelling takes a suggestion that is more probable than the given label.
    """
    columns = []
    for network, counts in enumerate(predicted.counts):
        rows = torch.nonzero(predicted.network_of == network).flatten()
        scored = score_labels(predicted.logits[rows], labels[rows], label_evidence(counts))
        columns.append((rows, *scored))
    rows, p_given, suggested, p_suggested, _, is_issue, _ = (torch.cat(parts) for parts in zip(*columns, strict=True))
    order = rows.argsort()
    found = [values[order].numpy() for values in (p_given, is_issue, suggested, is_issue & (p_suggested > p_given))]
    return Verdict(*found, error=float(1 - p_given.double().mean()))


def by_cleanlab(predicted: Predicted, labels: Tensor, score: str) -> Verdict:
    """cleanlab's label quality, its filter as it comes, and the network's prediction as the suggestion.

    Source: Northcutt, Jiang, Chuang 2021, arXiv 1911.00068.
    """
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    probs, given = predicted.logits.softmax(dim=1).numpy(), labels.numpy()
    quality = get_label_quality_scores(given, probs, method=score)
    issues = find_label_issues(given, probs, n_jobs=1)
    return Verdict(quality, issues, probs.argmax(axis=1), issues, float(issues.mean()))


def by_prediction(predicted: Predicted, labels: Tensor) -> Verdict:
    """The classifier alone: wrong is what it predicts otherwise."""
    likeliest = predicted.logits.argmax(dim=1)
    quality = predicted.logits.softmax(dim=1).gather(1, labels[:, None]).squeeze(1)
    issues = (likeliest != labels).numpy()
    return Verdict(quality.numpy(), issues, likeliest.numpy(), issues, float(issues.mean()))


@dataclass
class Method:
    """A training, and what is made of its predictions.

    Args:
        training: Of :data:`denoising.methods.METHODS`.
        folds: 0 is one training, in sample.
        judge: The answers and (N,) labels -> a verdict.
    """

    training: str
    folds: int
    judge: Callable[[Predicted, Tensor], Verdict]

    def audit(self, predictions: Predictions) -> tuple[Verdict, float]:
        """The verdict, and the processor's seconds of the training."""
        predicted = predictions.of(self.training, self.folds)
        return self.judge(predicted, predictions.cell.noisy_labels), predicted.seconds


_confidence = partial(by_cleanlab, score="self_confidence")
_margin = partial(by_cleanlab, score="normalized_margin")
METHODS: dict[str, Method] = {
    "noise layer": Method("noise layer", 0, by_posterior),
    "noise layer, 5 folds": Method("noise layer", FOLDS, by_posterior),
    "cleanlab, 5 folds, self-confidence": Method("cross-entropy", FOLDS, _confidence),
    "cleanlab, 5 folds, normalised margin": Method("cross-entropy", FOLDS, _margin),
    "cleanlab, in sample, self-confidence": Method("cross-entropy", 0, _confidence),
    "cleanlab, in sample, normalised margin": Method("cross-entropy", 0, _margin),
    "cross-entropy, in sample": Method("cross-entropy", 0, by_prediction),
}
