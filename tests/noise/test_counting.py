import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix

from lightning_noisy.noise.counting import (
    add_label_counts,
    counts_to_shares,
    counts_to_triples,
    disagreement_rate,
    lost_classes,
    triples_to_counts,
)

labelled = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40)


@given(labelled, st.integers(1, 40))
def test_counts_are_scikit_learn_s_confusion_matrix(pairs, split):
    predicted, labels = map(list, zip(*pairs, strict=True))
    logits = torch.nn.functional.one_hot(torch.tensor(predicted), 4).float()
    counts = None
    for rows in (slice(None, split), slice(split, None)):
        if len(labels[rows]):
            counts = add_label_counts(counts, logits[rows], torch.tensor(labels[rows]))
    expected = confusion_matrix(predicted, labels, labels=range(4))
    np.testing.assert_array_equal(counts.numpy(), expected)
    np.testing.assert_allclose(disagreement_rate(counts.double()), (np.array(predicted) != labels).mean())
    assert torch.equal(triples_to_counts(counts_to_triples(counts), 4), counts.double())
    shares = counts_to_shares(counts.double())
    np.testing.assert_allclose(shares.sum(1), 1)
    seen = expected.sum(1) > 0
    np.testing.assert_allclose(shares[seen], expected[seen] / expected[seen].sum(1, keepdims=True))


def test_soft_labels_count_by_their_shares():
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    counts = add_label_counts(None, logits, torch.tensor([[0.75, 0.25], [0.5, 0.5]]))
    assert counts.tolist() == [[0.75, 0.25], [0.5, 0.5]]


def test_a_class_is_lost_when_its_labels_are_there_and_its_predictions_are_not():
    counts = torch.tensor([[50.0, 40.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    assert lost_classes(counts, 0.01) == []
    assert lost_classes(counts, 0.05) == [1]
