"""Two classes under one name, among others."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pytest
import torch

from lightning_noisy.audit.issues.findings import IssueFindings, SplitClass
from lightning_noisy.audit.issues.split_classes import split_classes
from lightning_noisy.audit.judging.by_features import judge_by_probe


def clouds(wrong, images=1000, share=0.5):
    """Five things under four names: the last thing has the name of class 0; of all labels a share is wrong."""
    generator = torch.Generator().manual_seed(0)
    thing = torch.randint(4, (images,), generator=generator)
    thing[(thing == 0) & (torch.rand(images, generator=generator) < share)] = 4
    features = torch.randn(images, 10, generator=generator) + 4 * torch.eye(10)[thing]
    clean = thing % 4
    drawn = torch.randint(4, (images,), generator=generator)
    labels = torch.where(torch.rand(images, generator=generator) < wrong, drawn, clean)
    return features.half(), labels, thing, pa.array([str(row) for row in range(images)])


def alone(count):
    return torch.full((count,), -1)


@pytest.mark.parametrize("wrong", [0.0, 0.4])
def test_two_things_under_one_name_are_told_and_no_other_class(wrong):
    features, labels, thing, ids = clouds(wrong)
    posterior = judge_by_probe(features, labels, 4).noise.posterior
    [split] = split_classes(features, labels, posterior, alone(1000), ids)
    assert split.label == 0
    assert 0.35 < split.share <= 0.5
    assert split.crossing < 0.2
    things = [{int(thing[int(image)]) for image in group} for group in split.examples]
    assert sorted(things, key=sorted) == [{0}, {4}]  # each group shows one of them


def test_noise_that_makes_two_groups_is_none():
    """Half of the labels of a class are wrong, of one other class: those images look wrong, and do not count."""
    features, _, thing, ids = clouds(0.0, share=0.0)
    labels = torch.where((thing == 1) & (torch.arange(1000) % 3 == 0), 0, thing)
    assert split_classes(features, labels, judge_by_probe(features, labels, 4).noise.posterior, alone(1000), ids) == []


def test_one_cloud_of_any_shape_a_few_strange_images_and_copies_are_none():
    generator = torch.Generator().manual_seed(1)
    long = torch.randn(400, 6, generator=generator) * torch.tensor([9.0, 3, 1, 1, 1, 1])
    labels, ids = torch.zeros(400, dtype=torch.long), pa.array([str(row) for row in range(400)])
    certain = torch.tensor([[1.0, 0.0]]).expand(400, 2)
    assert split_classes(long, labels, certain, alone(400), ids) == []
    few = long.clone()
    few[:40] += 100
    assert split_classes(few, labels, certain, alone(400), ids) == []
    copied = long.clone()
    copied[:150] = 60.0
    group = torch.where(torch.arange(400) < 150, 0, -1)
    assert split_classes(copied, labels, certain, group, ids) == []
    assert split_classes(copied, labels, certain, alone(400), ids) != []  # it is the group that tells


def test_of_few_images_nothing_is_said():
    features, labels, _, ids = clouds(0.0, images=300)
    posterior = torch.eye(4)[labels]
    assert (labels == 0).sum() < 100
    assert split_classes(features, labels, posterior, alone(300), ids) == []


def test_they_are_told_in_words_and_read_again():
    splits = [SplitClass(label, 0.4, 0.3, [["a"], ["b"]]) for label in range(7)]
    found = IssueFindings(kinds={}, split_classes=splits)
    assert IssueFindings.from_dict(json.loads(json.dumps(dataclasses.asdict(found)))) == found
    said = found.sentences(["ki\u202etten", *map(str, np.arange(1, 7))])
    assert said[0] == (
        r"'ki\u202etten' looks like two classes: its images fall into groups of 60% and 40% with a gap between them."
    )
    assert said[-1] == "2 more classes look like two."
