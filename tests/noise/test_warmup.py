"""The length of the warm-up, against a second way to say the same."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_noisy import NoiseConfig, NoiseLayer
from lightning_noisy.noise.warmup import Warmup


def planned(epochs=12, steps_per_epoch=50, **options):
    """Three epochs without a validation: a quarter of twelve."""
    return Warmup.plan(NoiseConfig(3, **options), epochs, steps_per_epoch)


def after(warmup, accuracies, losses, agreements=None, confidence=1.0):
    """Its length when all that was shown; the agreement in training is the accuracy where it is not given."""
    agreements = accuracies if agreements is None else agreements
    for epoch, shown in enumerate(zip(accuracies, losses, agreements, strict=True)):
        warmup.validated(epoch, *shown, confidence)
    return warmup.epochs


FALLING = [1.9, 1.8, 1.7, 1.6, 1.5, 1.4, 1.3, 1.2]


def test_it_grows_while_both_the_accuracy_and_the_loss_are_the_best_so_far():
    assert after(planned(), [0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.6, 0.7], FALLING) == 6  # .5 is not above .5
    assert after(planned(), [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [1.9, 1.8, 1.7, 1.6, 1.65, 1.4]) == 5
    assert after(planned(), [0.1, 0.4, 0.3, 0.5], FALLING[:4]) == 3  # once over it is over
    assert after(planned(), [0.1 * epoch for epoch in range(8)], FALLING) == 8  # two thirds of twelve
    assert after(planned(), [], []) == 3


def test_it_ends_where_labels_are_learned_by_heart():
    rising = [0.1 * epoch for epoch in range(8)]
    ahead = [*rising[:4], 0.46, 0.5, 0.6, 0.7]  # at the fifth epoch by .06, .05 are allowed
    assert after(planned(), rising, FALLING, ahead) == 5
    assert after(planned(), rising, FALLING, [*rising[:4], 0.44, 0.5, 0.6, 0.7]) == 8
    assert after(planned(), rising, FALLING, confidence=0.45) == 6  # it agrees with more than it is sure of


def test_only_an_automatic_one_in_a_training_of_known_length_grows():
    rising = [0.1, 0.2, 0.3, 0.4], [1.4, 1.3, 1.2, 1.1]
    assert after(planned(warmup_epochs=2), *rising) == 2
    assert after(planned(warmup_epochs=0), *rising) == 0
    assert after(planned(epochs=float("inf")), *rising) == 3
    assert planned(warmup_epochs=2).push == planned(epochs=float("inf")).push == 1


def test_a_validation_without_a_known_label_shows_nothing():
    warmup = planned()
    nan = float("nan")
    assert after(warmup, [nan] * 4, [nan] * 4) == 3
    assert warmup == planned()


SHARES = st.sampled_from([0.1, 0.2, 0.3, 0.4])
EPOCHS = st.lists(st.tuples(SHARES, st.sampled_from([1.0, 1.1, 1.2]), SHARES, SHARES), max_size=12)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 40), st.integers(1, 400), EPOCHS)
def test_it_is_as_long_as_the_good_epochs_that_follow_each_other(epochs, steps_per_epoch, shown):
    warmup = planned(epochs, steps_per_epoch)
    for epoch, values in enumerate(shown):
        warmup.validated(epoch, *values)

    def is_good(epoch):
        accuracy, loss, agreement, confidence = shown[epoch]
        before = shown[:epoch]
        is_record = all(accuracy > a and loss < b for a, *_ in before for _, b, *_ in before)
        return is_record and agreement - accuracy <= 0.05 and agreement <= confidence

    expected = warmup.planned
    while expected <= len(shown) and is_good(expected - 1) and (expected + 1) * 3 <= 2 * epochs:
        expected += 1
    assert warmup.epochs == expected
    pushed = (epochs - warmup.planned) / (epochs - expected) if expected > warmup.planned else 1
    assert warmup.push == pytest.approx(pushed) and warmup.push >= 1


def test_the_scale_makes_up_for_the_epochs_that_the_layer_has_lost():
    counts = torch.tensor([[50.0, 10.0, 0.0], [5.0, 80.0, 15.0], [2.0, 0.0, 9.0]])
    plain, pushed, fixed = (NoiseLayer(NoiseConfig(3, init_scale=scale)) for scale in ("auto", "auto", 1.0))
    for layer in (pushed, fixed):
        layer.warmup = Warmup(epochs=7, planned=3, training=12)
    for layer in (plain, pushed, fixed):
        layer.follow(counts)
    torch.testing.assert_close(pushed.weight, 9 / 5 * plain.weight)
    assert torch.equal(fixed.weight, plain.weight)  # a scale that was given stays


def test_it_goes_through_json():
    warmup = planned()
    assert after(warmup, [0.1, 0.2, 0.3], [1.3, 1.2, 1.1]) == 4
    text = json.dumps(warmup.state_dict(), allow_nan=False)
    assert Warmup(**json.loads(text)) == warmup
    assert Warmup(**json.loads(json.dumps(planned().state_dict(), allow_nan=False))) == planned()
