"""Checkpoints of real trainings, made once."""

import pytest

from .small import train


@pytest.fixture(scope="session")
def lightning_checkpoint(tmp_path_factory):
    """A checkpoint of a small timm backbone, trained for two epochs on photos with noise put on their labels."""
    return train(tmp_path_factory.mktemp("lightning"), "timm:test_resnet")
