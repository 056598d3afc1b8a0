"""What an epoch has shown, against scikit-learn and loops, and over a checkpoint."""

import json

import numpy as np
import pytest
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
    agrees = probs.argmax(axis=1) == labels.numpy()
    surer = probs.max(axis=1)[agrees].mean() - probs.max(axis=1)[~agrees].mean()
    assert shown.explained == pytest.approx(surer, rel=1e-5)
    assert shown.estimated_rate == pytest.approx((probs.argmax(axis=1) != labels.numpy()).mean())


def test_doubt_explains_the_errors_of_a_calibrated_network_and_not_wrong_labels():
    """Of a calibrated one it is the share of the variance of agreement that its confidence explains."""
    logits = 2 * torch.randn(50_000, 4, generator=torch.Generator().manual_seed(0))
    probs = logits.double().softmax(dim=1)
    drawn = torch.multinomial(probs, 1, generator=torch.Generator().manual_seed(1)).squeeze(1)
    confidence, agreement = probs.max(dim=1).values, (probs.argmax(dim=1) == drawn).double().mean()
    expected = float(confidence.var() / (agreement * (1 - agreement)))
    assert filled([(logits, drawn)]).so_far().explained == pytest.approx(expected, abs=0.01)
    predicted = logits.argmax(dim=1)
    wrong = torch.rand(50_000, generator=torch.Generator().manual_seed(2)) < 0.3
    noisy = torch.where(wrong, (predicted + 1) % 4, predicted)
    assert filled([(logits, noisy)]).so_far().explained == pytest.approx(0, abs=0.01)


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
    assert resumed.so_far().held_out_agreement == 1
    resumed.observe_validation(wrong, labels)
    assert resumed.so_far().held_out_agreement == 0
    resumed.start_epoch(1, None)
    resumed.observe(*batches()[0])
    assert resumed.last.validated == 4 and resumed.so_far().held_out_agreement is None


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


def test_the_layer_is_told_how_much_better_the_network_agrees_than_before():
    told = []

    class Listening(NoiseLayer):
        def update_from_counts(self, *shown, gently):
            told.append(shown)
            assert gently, "nothing was validated"

    layer, counts = Listening(4), EpochCounts()
    labels = torch.arange(4).repeat(2)
    for epoch, right in enumerate((4, 6, 6)):
        counts.start_epoch(epoch, layer)
        predicted = torch.cat([labels[:right], (labels[right:] + 1) % 4])
        counts.observe(5 * torch.eye(4)[predicted], labels)
    counts.end_epoch(layer)
    assert [shown[-1] for shown in told] == [None, pytest.approx(0.25), pytest.approx(0)]


def test_labels_that_were_judged_give_the_layer_all_of_the_loss_at_once():
    labels = torch.arange(4).repeat(25)
    for soft_labels, share in ((torch.eye(4)[labels], 1.0), (None, 0.125)):
        counts, layer = EpochCounts(), NoiseLayer(4)
        counts.start_epoch(0, layer)
        counts.observe(4 * torch.eye(4)[labels], labels, soft_labels)
        counts.end_epoch(layer)
        assert layer.share == share


@pytest.mark.parametrize(
    ("expects", "validates", "goes_on", "share"),
    [(True, False, False, 1.0), (False, False, False, 0.125), (True, False, True, 0.125), (False, True, False, 1.0)],
)
def test_a_validation_that_a_resume_has_lost_is_not_one_that_never_is(expects, validates, goes_on, share):
    """A checkpoint of an epoch's last step comes before its validation; one in the middle of it is validated later."""
    labels = torch.arange(4).repeat(25)
    noisy = torch.where(torch.arange(100) % 3 == 0, (labels + 1) % 4, labels)
    counts, resumed, layer = EpochCounts(), EpochCounts(), NoiseLayer(4)
    counts.start_epoch(0, layer)
    counts.observe(4 * torch.eye(4)[labels], labels)
    if validates:
        counts.observe_validation(4 * torch.eye(4)[labels], noisy)
    resumed.load_state_dict(counts.state_dict(), torch.device("cpu"))
    resumed.expects_validation = expects
    if goes_on:
        resumed.observe(4 * torch.eye(4)[labels], labels)
    resumed.end_epoch(layer)
    assert layer.share == share


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
        assert shown.held_out_agreement is None, "of given labels, which soft ones can't be compared with"
    logits, targets = torch.cat([logits for logits, _ in seen]).double(), torch.cat(soft).double()
    loss = -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()
    assert counts.so_far().clean_loss == pytest.approx(float(loss), rel=1e-5)
    counts.end_epoch(layer)
    expected = (expected + 0.25) / (expected + 0.25).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(layer.transition_matrix().numpy(), expected, rtol=1e-4)
    assert counts.last.soft_counts is not None and counts.so_far() is None
