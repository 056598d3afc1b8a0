"""What an epoch has shown, against scikit-learn and loops, and over a checkpoint."""

import json

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.metrics import confusion_matrix, log_loss

from lightning_noisy import NoiseLayer
from lightning_noisy.noise.epoch_counts import EpochCounts


def batches(seed=0, count=3):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(8, 4, generator=generator) * 3, torch.randint(4, (8,), generator=generator)) for _ in range(count)
    ]


def filled(seen, **options):
    counts = EpochCounts(**options)
    counts.start_epoch(0, None)
    for logits, labels in seen:
        counts.observe(logits, labels)
    return counts


def test_it_sums_what_the_steps_have_shown():
    seen = batches()
    shown = filled(seen).so_far()
    logits, labels = torch.cat([logits for logits, _ in seen]), torch.cat([labels for _, labels in seen])
    probs = logits.double().softmax(dim=1).numpy()
    expected = confusion_matrix(probs.argmax(axis=1), labels, labels=range(4))
    np.testing.assert_array_equal(shown.label_counts.numpy(), expected)
    assert shown.confidence == pytest.approx(probs.max(axis=1).mean(), rel=1e-5)
    assert shown.clean_loss == pytest.approx(log_loss(labels, probs, labels=range(4)), rel=1e-5)
    assert shown.images == 24
    assert shown.estimated_rate == pytest.approx((probs.argmax(axis=1) != labels.numpy()).mean())


def validated(right_of_five, times=1):
    """Four in five training labels are agreed with, and so many of the validation's."""
    labels, logits = torch.arange(4).repeat(25), 5 * torch.eye(4)[torch.arange(4).repeat(25)]
    counts = filled([(logits, torch.where(torch.arange(100) % 5 == 0, (labels + 1) % 4, labels))])
    for _ in range(times):
        counts.observe_validation(logits, torch.where(torch.arange(100) % 5 >= right_of_five, (labels + 1) % 4, labels))
    return counts.so_far()


@pytest.mark.parametrize("times", [1, 100])
@pytest.mark.parametrize(("before", "held_out"), [(3, 0.5), (None, 0.4)])
def test_what_is_learned_by_heart_is_told_as_far_as_chance_allows(times, before, held_out):
    """Against the mean of the validations around the epoch, or the later one where the earlier epoch had none."""
    shown, earlier = validated(2, times), filled(batches()).so_far() if before is None else validated(before)
    deviation = scipy.stats.binom(100 * times, held_out).std() / (100 * times)
    expected = (0.8 - held_out - 2 * deviation, 0.8 - held_out + 2 * deviation)
    assert shown.learned_by_heart(earlier) == pytest.approx(expected, abs=1e-6)
    assert shown.learned_by_heart(None) is None, "nothing can be learned by heart in the first epoch"
    assert filled(batches()).so_far().learned_by_heart(shown) is None, "no validation"


def test_soft_labels_count_by_their_shares_and_images_without_a_label_not_at_all():
    logits, labels = batches(count=1)[0]
    missing = torch.cat([labels[:5], torch.full((3,), -1)])
    soft = torch.nn.functional.one_hot(labels, 4).float()
    soft[5:] = 0
    for given in (missing, soft):
        shown = filled([(logits, given)]).so_far()
        reference = filled([(logits[:5], labels[:5])]).so_far()
        assert torch.equal(shown.label_counts, reference.label_counts) and shown.images == 5
        assert shown.confidence == pytest.approx(reference.confidence)
        assert shown.clean_loss == pytest.approx(reference.clean_loss)


def test_the_layer_is_told_when_the_next_epoch_starts_and_once():
    layer, counts = NoiseLayer(4), filled(batches())
    shown = counts.so_far()
    counts.start_epoch(1, layer)
    counts.start_epoch(1, layer)
    assert layer.progress.tolist()[1] == 1 and counts.last is shown and counts.latest is shown
    assert counts.so_far() is None
    np.testing.assert_allclose(
        layer.transition_matrix().numpy(), (shown.label_counts + 0.25) / (shown.label_counts.sum(1, keepdim=True) + 1),
        rtol=1e-5,
    )  # fmt: skip


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_checkpoint_keeps_the_epoch_under_way(as_json, rank):
    whole, halves = batches(count=4), filled(batches(count=4)[:2])
    state = halves.state_dict()
    if as_json:
        state = json.loads(json.dumps(state, default=lambda tensor: tensor.tolist()))
    resumed = EpochCounts()
    resumed.load_state_dict(state, torch.device("cpu"), rank)
    assert resumed.epoch == 0
    for logits, labels in whole[2:]:
        resumed.observe(logits, labels)
    expected = filled(whole if rank == 0 else whole[2:]).so_far()
    shown = resumed.so_far()
    assert torch.equal(shown.label_counts, expected.label_counts)
    assert shown.confidence == pytest.approx(expected.confidence, rel=1e-5)
    assert shown.clean_loss == pytest.approx(expected.clean_loss, rel=1e-5)


def test_the_last_epoch_is_kept_too_and_an_empty_one_is_empty():
    counts = filled(batches())
    counts.start_epoch(1, None)
    resumed = EpochCounts()
    resumed.load_state_dict(counts.state_dict(), torch.device("cpu"))
    assert resumed.epoch == 1 and resumed.so_far() is None
    assert torch.equal(resumed.latest.label_counts, counts.last.label_counts)
    empty = EpochCounts()
    empty.load_state_dict(EpochCounts().state_dict(), torch.device("cpu"))
    assert empty.latest is None


def test_of_several_validations_in_an_epoch_the_last_one_counts():
    counts, labels = filled(batches()), torch.arange(4)
    right, wrong = 5 * torch.eye(4), 5 * torch.eye(4)[(labels + 1) % 4]
    for logits in (wrong, wrong):
        counts.observe_validation(logits, labels)
    assert (counts.so_far().right, counts.so_far().validated) == (0, 8)
    counts.observe(*batches()[0])  # a step of training: the next is another validation
    counts.observe_validation(right, labels)
    assert (counts.so_far().right, counts.so_far().validated) == (4, 4)
    counts.end_validation()
    counts.observe_validation(wrong, labels)
    counts.end_validation(counts=False)
    assert (counts.so_far().right, counts.so_far().validated) == (4, 4)
    resumed = EpochCounts()
    resumed.load_state_dict(counts.state_dict(of_this_process=True), torch.device("cpu"))
    assert (resumed.so_far().right, resumed.so_far().validated) == (4, 4)
    resumed.observe_validation(wrong, labels)
    assert (resumed.so_far().right, resumed.so_far().validated) == (0, 4)
    resumed.start_epoch(1, None)
    resumed.observe(*batches()[0])
    assert resumed.last.validated == 4 and resumed.so_far().validated == 0


def test_processes_are_asked_only_where_somebody_asks_and_once():
    asked = []
    counts = filled(batches(), reduce=lambda tensor: asked.append(tensor.shape) or 2 * tensor.double())
    assert not asked
    assert counts.so_far().images == 48 and counts.so_far().images == 48
    assert len(asked) == 2
    assert counts.state_dict(of_this_process=True)["so_far"]["sums"][2] == 48  # the sum is known already
    counts.observe(*batches()[0])
    assert counts.state_dict(of_this_process=True)["so_far"]["sums"][2] == 32  # its own alone
    assert len(asked) == 2


def test_labels_that_were_judged_give_the_layer_all_of_the_loss_at_once():
    labels = torch.arange(4).repeat(25)
    for soft_labels, share in ((torch.eye(4)[labels], 1.0), (None, 0.125)):
        counts, layer = EpochCounts(), NoiseLayer(4)
        counts.start_epoch(0, layer)
        counts.observe(4 * torch.eye(4)[labels], labels, soft_labels)
        counts.end_epoch(layer)
        assert layer.share == share


def test_the_layer_is_told_whether_labels_are_learned_by_heart():
    labels = torch.arange(4).repeat(25)
    wrong = (labels + 1) % 4
    for validation, share in ((None, 1 / 4), (labels, 0.0), (wrong, 1.0)):
        counts, layer = EpochCounts(), NoiseLayer(4)
        for epoch in range(2):
            counts.start_epoch(epoch, layer)
            counts.observe(4 * torch.eye(4)[labels], labels)
            if validation is not None:
                counts.observe_validation(4 * torch.eye(4)[labels], validation)
        assert layer.share == 1 / 8
        counts.end_epoch(layer)
        assert layer.share == share


def test_a_checkpoint_of_an_earlier_version_is_read():
    """Its sums had one number more, which nothing asks for any more."""
    counts = filled(batches())
    counts.observe_validation(*batches()[0])
    state, resumed = counts.state_dict(), EpochCounts()
    sums = state["so_far"]["sums"]
    state["so_far"]["sums"] = torch.cat([sums[:3], torch.tensor([0.7]), sums[3:]])
    resumed.load_state_dict(state, torch.device("cpu"))
    assert resumed.so_far().validated == 8 and resumed.so_far().right == counts.so_far().right
    assert resumed.so_far().clean_loss == pytest.approx(counts.so_far().clean_loss, rel=1e-5)


def test_where_soft_labels_are_trained_on_the_layer_is_told_of_them_and_people_of_the_given_ones():
    seen = batches(count=2)
    generator = torch.Generator().manual_seed(3)
    soft = [torch.randn(8, 4, generator=generator).softmax(dim=1) for _ in seen]
    counts, layer = EpochCounts(), NoiseLayer(4)
    counts.start_epoch(0, layer)
    for (logits, labels), targets in zip(seen, soft, strict=True):
        counts.observe(logits, labels, targets)
        counts.observe_validation(logits, labels)
    restored = EpochCounts()
    restored.load_state_dict(counts.state_dict(), torch.device("cpu"))
    for shown in (counts.so_far(), restored.so_far()):
        assert torch.equal(shown.label_counts, filled(seen).so_far().label_counts)
        expected = np.zeros((4, 4))
        for (logits, _), targets in zip(seen, soft, strict=True):
            np.add.at(expected, logits.argmax(dim=1).numpy(), targets.double().numpy())
        np.testing.assert_allclose(shown.soft_counts.numpy(), expected, rtol=1e-5)
        assert shown.disagreement == pytest.approx(1 - np.trace(expected) / 16, rel=1e-5)
        assert shown.learned_by_heart(shown) is None, "of given labels, which soft ones can't be compared with"
    logits, targets = torch.cat([logits for logits, _ in seen]).double(), torch.cat(soft).double()
    loss = -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()
    assert counts.so_far().clean_loss == pytest.approx(float(loss), rel=1e-5)
    counts.end_epoch(layer)
    expected = (expected + 0.25) / (expected + 0.25).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(layer.transition_matrix().numpy(), expected, rtol=1e-4)
    assert counts.last.soft_counts is not None and counts.so_far() is None
