"""When the noise layer takes a share of the loss, and that it can't run away."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_noisy import NoiseConfig, NoiseLayer
from lightning_noisy.noise.share import MOST_STEP_BACKS, classes_below, in_words, next_share

GOOD = torch.tensor([[80.0, 10.0, 10.0], [10.0, 80.0, 10.0], [10.0, 10.0, 80.0]])
LOST = torch.tensor([[80.0, 10.0, 50.0], [20.0, 90.0, 45.0], [0.0, 0.0, 5.0]])


def test_it_begins_with_an_eighth_and_doubles():
    values = [next_share(0.0, 0, GOOD, confidence=0.8).value]
    while values[-1] < 1:
        values.append(next_share(values[-1], 0, GOOD, confidence=0.8).value)
    assert values == [1 / 8, 1 / 4, 1 / 2, 1]


@pytest.mark.parametrize(
    ("learned_by_heart", "gently", "share"),
    [
        (None, True, 1 / 8),  # nobody knows
        (None, False, 1.0),  # who trains on judged labels does
        ((0.02, 0.1), True, 1.0),
        ((0.01, 0.1), True, 1 / 8),  # it may be chance
        ((-0.1, 0.02), True, 1 / 8),
        ((-0.1, 0.01), True, 0.0),
        ((-0.1, 0.01), False, 0.0),
    ],
)
def test_what_is_learned_by_heart_decides_how_it_comes(learned_by_heart, gently, share):
    found = next_share(0.0, 0, GOOD, 0.8, learned_by_heart, gently)
    assert found.value == share
    assert ("no label was learned by heart" in found.reason) == (share == 0)


@pytest.mark.parametrize(
    ("value", "learned_by_heart", "share"),
    [
        (1 / 8, (-0.1, 0.1), 1 / 4),
        (1 / 8, (0.02, 0.1), 1.0),  # now that it is known
        (1 / 8, (-0.1, 0.01), 0.0),
        (1 / 4, (-0.1, 0.01), 1 / 2),  # by then the layer itself may be why
        (1.0, (-0.1, 0.01), 1.0),
    ],
)
def test_after_its_first_epoch_a_validation_may_send_it_back(value, learned_by_heart, share):
    found = next_share(value, 0, GOOD, 0.8, learned_by_heart)
    assert (found.value, found.step_backs) == (share, 0)


@pytest.mark.parametrize(
    ("counts", "confidence", "reason"),
    [
        (GOOD, 0.66, "still learning: its mean confidence of 66% was below its agreement with the labels, 80%"),
        (torch.full((3, 3), 34.0), 0.9, "agreed with 33% of the labels, hardly more than chance"),
        (LOST, 0.9, "{classes} was predicted for less than half of the images with its label"),
    ],
)
def test_until_then_it_waits_and_says_why(counts, confidence, reason):
    share = next_share(0.0, 0, counts, confidence)
    assert share.value == 0 and reason in share.reason


def test_it_steps_back_where_a_class_is_being_lost_and_comes_back():
    share = next_share(1.0, 0, LOST, 0.9)
    assert (share.value, share.step_backs, share.classes) == (0.5, 1, (2,))
    again = next_share(share.value, share.step_backs, LOST, 0.9)
    assert (again.value, again.step_backs) == (0.25, 2)
    back = next_share(again.value, again.step_backs, GOOD, 0.9)
    assert (back.value, back.step_backs) == (0.5, 2)
    assert next_share(back.value, back.step_backs, GOOD, 0.9).value == 1.0


def test_a_class_of_few_images_may_be_below_by_chance():
    assert classes_below(torch.diag(torch.tensor([4.0, 10.0])) + torch.tensor([[0.0, 0.0], [6.0, 0.0]]), 0.5) == []
    large = 100 * (torch.diag(torch.tensor([4.0, 10.0])) + torch.tensor([[0.0, 0.0], [6.0, 0.0]]))
    assert classes_below(large, 0.5) == [0]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 50), min_size=9, max_size=9).filter(any),
            st.floats(0, 1),
            st.none() | st.tuples(st.floats(-1, 1), st.floats(-1, 1)),
            st.booleans(),
        ),
        max_size=40,
    )
)
def test_whatever_an_epoch_shows_it_stays_in_bounds_and_steps_back_a_bounded_number_of_times(epochs):
    value, step_backs = 0.0, 0
    for counts, *shown in epochs:
        share = next_share(value, step_backs, torch.tensor(counts).reshape(3, 3).float(), *shown)
        assert 0 <= share.value <= 1 and step_backs <= share.step_backs <= MOST_STEP_BACKS
        if step_backs == MOST_STEP_BACKS:  # plain cross-entropy for the rest of the training
            assert share.value == 0
        value, step_backs = share.value, share.step_backs


def test_a_network_made_to_swing_ends_in_plain_cross_entropy():
    """The worst that the feedback can do: the layer loses a class each time that it acts."""
    value, step_backs, changes = 0.0, 0, 0
    for _ in range(100):
        share = next_share(value, step_backs, LOST if value > 0 else GOOD, 0.9)
        changes += share.value != value
        value, step_backs = share.value, share.step_backs
    assert value == 0 and step_backs == MOST_STEP_BACKS and changes <= 2 * MOST_STEP_BACKS


def test_classes_are_named_five_at_most():
    assert in_words("{classes} x", (1,), ["cat", "dog"]) == "class 'dog' x"
    assert in_words("{classes} was x with its label", range(7)) == (
        "classes 0, 1, 2, 3, 4 and 2 others were each x with their label"
    )


def test_a_layer_that_never_acted_says_so_and_why():
    layer = NoiseLayer(3)
    assert "ended within the first one" in layer.verdict()
    layer.update_from_counts(GOOD, confidence=0.3)
    assert layer.verdict() == (
        "The noise layer never acted, all of the training was plain cross-entropy: the network was still learning: its "
        "mean confidence of 30% was below its agreement with the labels, 80%."
    )
    layer.update_from_counts(GOOD, confidence=0.8, learned_by_heart=(0.1, 0.1))
    assert (layer.share, layer.warmup_epochs) == (1.0, 2)
    assert layer.verdict() == (
        "The noise layer never acted, all of the training was plain cross-entropy: the network knew enough only when "
        "the last epoch was over."
    )
    layer.update_from_counts(GOOD, confidence=0.8, learned_by_heart=(0.1, 0.1))
    assert (layer.share, layer.warmup_epochs, layer.verdict()) == (1.0, 2, None)


def test_a_layer_that_came_late_says_so():
    layer = NoiseLayer(3)
    for _ in range(2):
        layer.update_from_counts(GOOD)
    assert (layer.share, layer.warmup_epochs) == (0.25, 1)
    assert layer.verdict() == (
        "The noise layer came late and ended with 25.0% of the loss: it begins with an eighth and doubles from "
        "epoch to epoch, unless a validation shows that labels are learned by heart."
    )


def test_a_layer_that_stepped_back_says_so_and_why():
    layer = NoiseLayer(3)
    layer.update_from_counts(GOOD, learned_by_heart=(0.1, 0.1))
    layer.update_from_counts(LOST)
    assert layer.verdict(["a", "b", "c"]) == (
        "The noise layer had to step back once and ended with 50% of the loss: class 'c' was predicted for less than a "
        "quarter of the images with its label."
    )


def test_a_layer_that_was_sent_back_says_so_and_why():
    layer = NoiseLayer(3)
    layer.update_from_counts(GOOD)
    layer.update_from_counts(GOOD, learned_by_heart=(-0.1, 0.01))
    assert layer.verdict() == (
        "The noise layer acted in the beginning and ended with none of the loss: no label was learned by heart: the "
        "network agreed with the training labels no more than with the validation's."
    )


def test_a_length_of_ones_own_is_kept():
    layer = NoiseLayer(NoiseConfig(3, warmup_epochs=2))
    shares = []
    for _ in range(3):
        layer.update_from_counts(LOST)
        shares.append(layer.share)
    assert shares == [0, 1, 1] and layer.warmup_epochs == 2
    assert NoiseLayer(NoiseConfig(3, warmup_epochs=0)).share == 1
