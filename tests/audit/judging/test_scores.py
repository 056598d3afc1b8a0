import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_noisy.audit.judging.scores import ISSUE_BELOW, label_evidence, score_labels, share_evidence


def formula(logits, labels, counts):
    """All of it in float64 by numpy, image by image: the (B, K) posterior and the classifier's own probability."""
    num_classes = len(counts)
    matrix = (counts + 1 / num_classes) / (counts + 1 / num_classes).sum(axis=1, keepdims=True)
    posterior, own = np.empty(logits.shape), np.empty(len(logits))
    for row, (values, label) in enumerate(zip(logits.astype(np.float64), labels, strict=True)):
        probs = np.exp(values - values.max()) / np.exp(values - values.max()).sum()
        joint = probs * matrix[:, label]
        posterior[row], own[row] = joint / joint.sum(), probs[label]
    return posterior, own


@st.composite
def audits(draw):
    num_classes, size = draw(st.integers(2, 7)), draw(st.integers(1, 9))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits = generator.normal(size=(size, num_classes)) * draw(st.sampled_from([0.1, 3, 30]))
    counts = generator.integers(0, draw(st.sampled_from([1, 5, 1000])) + 1, size=(num_classes, num_classes))
    return logits.astype(np.float32), generator.integers(num_classes, size=size), counts.astype(np.float64)


@given(audits())
@settings(deadline=None)
def test_it_is_the_formula_in_float64(audit):
    logits, labels, counts = audit
    scored = score_labels(torch.from_numpy(logits), torch.from_numpy(labels), label_evidence(torch.from_numpy(counts)))
    posterior, own = formula(*audit)
    rows = np.arange(len(labels))
    np.testing.assert_allclose(scored.p_given, posterior[rows, labels], rtol=2e-4, atol=1e-30)
    np.testing.assert_allclose(scored.clean_probability, own, rtol=2e-4, atol=1e-30)
    issues, suggested = scored.is_issue.numpy(), scored.suggested_label.numpy()
    near = np.isclose(posterior[rows, labels], ISSUE_BELOW, rtol=1e-4)
    np.testing.assert_array_equal(issues[~near], (posterior[rows, labels] < ISSUE_BELOW)[~near])
    np.testing.assert_array_equal(suggested[~issues], labels[~issues])
    others = np.where(np.arange(posterior.shape[1]) == labels[:, None], -1, posterior)
    best = np.where(issues, others.max(axis=1), posterior[rows, labels])
    np.testing.assert_allclose(scored.p_suggested, best, rtol=2e-4, atol=1e-30)
    np.testing.assert_allclose(posterior[rows, suggested], best, rtol=2e-4, atol=1e-30)


def test_the_suggestion_for_an_issue_is_always_another_class():
    logits = torch.tensor([[1.0, 0, 0], [9.0, 0, 0], [0, 9.0, 0]])
    scored = score_labels(logits, torch.tensor([0, 0, 0]), torch.zeros(3, 3))
    assert scored.is_issue.tolist() == [True, False, True]
    assert scored.suggested_label.tolist() == [1, 0, 1]
    assert (scored.p_suggested > scored.p_given).tolist() == [False, False, True]  # the first is in doubt, no more


def test_noise_that_prefers_one_class_decides_between_equals():
    counts = torch.tensor([[60.0, 40, 0], [0, 60, 40], [40, 0, 60]])  # class 0 becomes 1, 1 becomes 2, 2 becomes 0
    logits = torch.tensor([[5.0, 0, 5.0]])  # 0 or 2, and the label says 1
    scored = score_labels(logits, torch.tensor([1]), label_evidence(counts))
    assert scored.suggested_label.item() == 0 and scored.p_suggested.item() > 0.7


def test_half_precision_and_a_thousand_classes_are_counted_in_float32():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 1000, generator=generator).bfloat16()
    labels = torch.randint(1000, (5,), generator=generator, dtype=torch.int32)
    counts = torch.rand(1000, 1000, generator=generator).round().double()
    with torch.autocast("cpu", torch.bfloat16):
        scored = score_labels(logits, labels, label_evidence(counts))
    posterior, own = formula(logits.double().numpy(), labels.numpy(), counts.numpy())
    np.testing.assert_allclose(scored.p_given, posterior[np.arange(5), labels], rtol=1e-4)
    np.testing.assert_allclose(scored.clean_probability, own, rtol=1e-4)


def test_no_images():
    scored = score_labels(torch.empty(0, 3), torch.empty(0, dtype=torch.int64), torch.zeros(3, 3))
    assert [len(values) for values in scored] == [0] * 6


@pytest.mark.parametrize(
    "logits, labels, evidence, said",
    [
        (torch.zeros(2, 3), torch.tensor([0, 1]), torch.zeros(4, 4), r"shapes \(B, K\) and \(K, K\), but got \(2, 3\)"),
        (torch.zeros(2, 3), torch.tensor([0]), torch.zeros(3, 3), r"integers of shape \(2,\), but got"),
        (torch.zeros(2, 3), torch.tensor([0.0, 1.0]), torch.zeros(3, 3), "to be integers"),
        (torch.zeros(2, 3), torch.tensor([0, -1]), torch.zeros(3, 3), r"in \[0, 3\), but got -1 to 0"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), torch.zeros(3, 3), r"in \[0, 3\), but got 0 to 3"),
    ],
)
def test_what_does_not_fit_together_is_said(logits, labels, evidence, said):
    with pytest.raises(ValueError, match=said):
        score_labels(logits, labels, evidence)


def test_the_labels_of_one_picture_tell_of_one_class():
    generator = np.random.default_rng(0)
    log_probs = torch.from_numpy(np.log(generator.dirichlet(np.ones(3), 6))).float()
    matrix = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.3, 0.6]])
    labels = torch.tensor([0, 0, 1, 2, 1, 0])
    own = (log_probs + matrix.log().T[labels]).softmax(dim=1)
    shared = share_evidence(own, log_probs, matrix.log(), labels, torch.tensor([5, -1, 5, -1, 5, -1]))
    torch.testing.assert_close(shared[[1, 3, 5]], own[[1, 3, 5]])
    mean = log_probs.double().numpy()[[0, 2, 4]].mean(axis=0)
    joint = np.exp(mean) * matrix.double().numpy()[:, 0] * matrix.double().numpy()[:, 1] ** 2
    for row in (0, 2, 4):
        np.testing.assert_allclose(shared[row].numpy(), joint / joint.sum(), rtol=1e-5)
