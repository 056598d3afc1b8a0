"""Names that are imported when they are asked for, and places of classes that configurations may still name."""

import importlib

import pytest

from lightning_noisy.features.frozen_features import FrozenFeatures
from lightning_noisy.training.loggers import NoisyCSVLogger
from lightning_noisy.utils.lazy_names import lazy_names


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("lightning_noisy.training.csv_log.NoisyCSVLogger", NoisyCSVLogger),
        ("lightning_noisy.training.frozen_features.FrozenFeatures", FrozenFeatures),
    ],
)
def test_an_old_place_gives_the_class_of_the_new_one(path, expected):
    module, _, name = path.rpartition(".")
    assert getattr(importlib.import_module(module), name) is expected


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'x' has no attribute 'b'"):
        lazy_names("x", {"a": "math"})("b")
