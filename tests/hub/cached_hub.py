"""Repositories in a cache of the Hub's, which is all that a client without a connection has."""

from pathlib import Path

import pytest
from huggingface_hub import constants

REVISION = "0" * 40


@pytest.fixture
def cached_hub(tmp_path, monkeypatch):
    """A function that makes the folder of a repository by its name; this process and its children find it."""
    cache = tmp_path / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def folder_of(name) -> Path:
        repository = cache / f"models--{name.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(REVISION)
        (repository / "snapshots" / REVISION).mkdir(parents=True)
        return repository / "snapshots" / REVISION

    return folder_of
