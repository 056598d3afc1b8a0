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


def after(warmup, accuracies, losses):
    for epoch, (accuracy, loss) in enumerate(zip(accuracies, losses, strict=True)):
        warmup.validated(epoch, accuracy, loss)
    return warmup.epochs


def test_it_grows_while_both_the_accuracy_and_the_loss_are_the_best_so_far():
    falling = [1.9, 1.8, 1.7, 1.6, 1.5, 1.4, 1.3, 1.2]
    assert after(planned(), [0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.6, 0.7], falling) == 6  # .5 is not above .5
    assert after(planned(), [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [1.9, 1.8, 1.7, 1.6, 1.65, 1.4]) == 5
    assert after(planned(), [0.1, 0.4, 0.3, 0.5], falling[:4]) == 3  # once over it is over
    assert after(planned(), [0.1 * epoch for epoch in range(8)], falling) == 8  # two thirds of twelve
    assert after(planned(), [], []) == 3


def test_only_an_automatic_one_in_a_training_of_known_length_grows():
    rising = [0.1, 0.2, 0.3, 0.4], [1.4, 1.3, 1.2, 1.1]
    assert after(planned(warmup_epochs=2), *rising) == 2
    assert after(planned(warmup_epochs=0), *rising) == 0
    assert after(planned(epochs=float("inf")), *rising) == 3
    assert planned(warmup_epochs=2).push == planned(epochs=float("inf")).push == 1


VALIDATIONS = st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.3, 0.4]), st.sampled_from([1.0, 1.1, 1.2])), max_size=12)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 40), st.integers(1, 400), VALIDATIONS)
def test_it_is_as_long_as_the_records_that_follow_each_other(epochs, steps_per_epoch, validations):
    warmup = planned(epochs, steps_per_epoch)
    start = warmup.planned
    found = after(warmup, *(zip(*validations, strict=True) if validations else ([], [])))
    records = [
        all(
            accuracy > earlier[0] and loss < earlier[1]
            for earlier in [(max(a for a, _ in validations[:n]), min(b for _, b in validations[:n]))]
        )
        if n
        else True
        for n, (accuracy, loss) in enumerate(validations)
    ]
    expected = start
    while expected <= len(records) and records[expected - 1] and (expected + 1) * 3 <= 2 * epochs:
        expected += 1
    assert found == expected
    assert warmup.push == pytest.approx((epochs - start) / (epochs - found) if found > start else 1)
    assert warmup.push >= 1


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
    after(warmup, [0.1, 0.2, 0.3], [1.3, 1.2, 1.1])
    text = json.dumps(warmup.state_dict(), allow_nan=False)
    assert Warmup(**json.loads(text)) == warmup
    assert Warmup(**json.loads(json.dumps(planned().state_dict(), allow_nan=False))) == planned()
