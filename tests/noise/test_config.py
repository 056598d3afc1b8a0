import dataclasses
import json
import math

import pytest

from lightning_noisy.noise import NoiseConfig
from lightning_noisy.noise.config import resolve_noise_config

EYE = [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("num_classes", 1),
        ("num_classes", "10"),
        ("num_classes", True),
        ("noise_type", "sofmax"),
        ("dropout", 1.0),
        ("dropout", -0.1),
        ("dropout_on", "logits"),
        ("init_scale", 0),
        ("init_scale", "identity"),
        ("init_scale", math.nan),
        ("trainable", 1),
        ("warmup_epochs", -1),
        ("warmup_epochs", 2.5),
        ("warmup_epochs", "long"),
        ("init", "random"),
        ("class_balance", 1.5),
        ("objective", "loss"),
        ("lr_scale", -1.0),
        ("transition_matrix", [[0.5, 0.4], [0.0, 1.0]]),
        ("transition_matrix", [[0.5, 0.5]]),
        ("transition_matrix", [[1.5, -0.5], [0.0, 1.0]]),
    ],
)
def test_a_wrong_value_is_named_with_what_came(argument, value):
    with pytest.raises(ValueError, match=f"Expected argument `{argument}`") as caught:
        NoiseConfig(**{"num_classes": 2, argument: value})
    assert "\n" not in str(caught.value)


def test_round_trip_through_json():
    config = NoiseConfig(
        2, noise_type="stochastic", dropout=0.3, transition_matrix=EYE, warmup_epochs=0, init_scale=2.0
    )
    assert NoiseConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_what_an_older_description_did_not_know_is_as_it_was():
    old = {"num_classes": 3, "warmup_epochs": 5, "clean_loss_weight": 0.0, "rescue_below": 0.25}
    first = NoiseConfig.from_dict({**old, "format_version": 1})
    assert first == NoiseConfig(3, warmup_epochs=5, init="identity", objective="likelihood", class_balance=0.0)
    second = NoiseConfig.from_dict({**old, "format_version": 2})
    assert second == NoiseConfig(3, warmup_epochs=5, objective="likelihood")
    assert NoiseConfig.from_dict({"num_classes": 3}) == NoiseConfig(3)
    with pytest.raises(ValueError, match="Unknown key `rescue_below`"):
        NoiseConfig.from_dict({"num_classes": 3, "rescue_below": 0.25})


def test_the_published_layer_is_one_line_away():
    paper = NoiseConfig.paper(100)
    assert (paper.start_scale(), paper.dropout, paper.dropout_on) == (1.0, 0.1, "output")
    assert (paper.warmup_epochs, paper.lr_scale, paper.objective) == (0, 1.0, "likelihood")
    assert paper.takes_gradients and not paper.follows_counts and not paper.class_balance


def test_a_matrix_may_lie_in_a_file(tmp_path):
    (tmp_path / "T.csv").write_text("0.9,0.1\n0.2,0.8\n", encoding="utf-8")
    assert NoiseConfig(transition_matrix=str(tmp_path / "T.csv")).transition_matrix == [[0.9, 0.1], [0.2, 0.8]]
    with pytest.raises(ValueError, match=r"missing\.csv"):
        NoiseConfig(transition_matrix=str(tmp_path / "missing.csv"))


def test_unknown_keys_are_named_with_a_near_one_and_ignored_from_a_newer_version():
    with pytest.raises(ValueError, match=r"Unknown key `drop_out`.*Did you mean `dropout`"):
        NoiseConfig.from_dict({"num_classes": 3, "drop_out": 0.1})
    with pytest.warns(UserWarning, match="newer version"):
        assert NoiseConfig.from_dict({"num_classes": 3, "new_idea": 1, "format_version": 99}) == NoiseConfig(3)


def test_a_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        NoiseConfig(3).dropout = 0.5


@pytest.mark.parametrize("num_classes", [2, 10, 100, 1000, 21_843])
def test_the_automatic_scale_is_the_documented_formula(num_classes):
    reachable = math.e / (math.e + 9)
    scale = math.log(reachable * (num_classes - 1) / (1 - reachable))
    assert NoiseConfig(num_classes).start_scale() == pytest.approx(max(1.0, scale))
    assert NoiseConfig(num_classes, init_scale=0.5).start_scale() == 0.5


def test_the_number_of_classes_is_filled_in_or_must_agree():
    assert resolve_noise_config({"dropout": 0.2}, 7) == NoiseConfig(7, dropout=0.2)
    assert resolve_noise_config(5) == NoiseConfig(5)
    assert NoiseConfig(transition_matrix=EYE).num_classes == 2
    with pytest.raises(ValueError, match=r"that of the model \(7\), but got 5"):
        resolve_noise_config(NoiseConfig(5), 7)
    with pytest.raises(ValueError, match="`num_classes`"):
        resolve_noise_config(NoiseConfig())
