"""One class under two names, among others."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from lightning_noisy.audit.issues.findings import IssueFindings, Leak, SimilarClasses
from lightning_noisy.audit.issues.similar_classes import similar_classes
from lightning_noisy.audit.judging.by_features import judge_by_probe


def clouds(wrong):
    """Class 3 is class 0 under another name; of all labels a share is wrong."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.arange(1200) % 4
    features = torch.randn(1200, 10, generator=generator) + 4 * torch.eye(10)[clean % 3]
    drawn = torch.randint(4, (1200,), generator=generator)
    return features.half(), torch.where(torch.rand(1200, generator=generator) < wrong, drawn, clean)


@pytest.mark.parametrize("wrong", [0.0, 0.4])
def test_two_names_of_one_class_are_told_and_no_other_pair(wrong):
    features, labels = clouds(wrong)
    [pair] = similar_classes(judge_by_probe(features, labels, 4).probe_log_probs, labels, features)
    assert (pair.one, pair.other) == (0, 3)
    assert 0.4 < pair.separability < 0.6
    assert 0.4 < pair.confused < 0.6
    assert pair.cosine > 0.9


def test_separability_is_the_share_of_pairs_in_the_right_order():
    generator = np.random.default_rng(0)
    log_probs = torch.from_numpy(np.log(generator.dirichlet(np.ones(2), 400))).float()
    labels = torch.from_numpy(generator.integers(0, 2, 400))
    [pair] = similar_classes(log_probs, labels, torch.randn(400, 3))
    odds = (log_probs[:, 1] - log_probs[:, 0]).numpy()
    right = odds[labels.numpy() == 1][:, None] > odds[labels.numpy() == 0]
    assert pair.separability == pytest.approx(right.mean())
    few = torch.zeros(400, dtype=torch.long)
    few[:5] = 1
    assert similar_classes(log_probs, few, torch.randn(400, 3)) == []


def test_they_are_told_in_words_and_read_again():
    pairs = [SimilarClasses(2 * n, 2 * n + 1, 0.51, 0.4, 0.9) for n in range(7)]
    found = IssueFindings(kinds={"outlier": 1}, leaks=[Leak("test", 1, 10)], similar_classes=pairs)
    assert IssueFindings.from_dict(json.loads(json.dumps(dataclasses.asdict(found)))) == found
    said = found.sentences(["cat", "ki\u202etten", *map(str, range(2, 14))])
    assert said[0] == (
        "1 of 10 test images (10.0%) are among the training or validation images too: an accuracy measured on them is "
        "flattered."
    )
    assert said[1] == "Unlike all classes: 1 image."
    assert said[2] == (
        r"'cat' and 'ki\u202etten' look like one class: the probe tells their images apart hardly better than by "
        "chance (AUROC 0.51)."
    )
    assert said[-1] == "2 more pairs of classes look like one."
