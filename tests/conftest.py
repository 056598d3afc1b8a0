"""Tiny real images for the tests, and a cache folder of their own."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import types
import warnings
from pathlib import Path
from unittest import mock

# One thread each, in the processes that tests start as well: the workers of pytest-xdist share the cores.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import torch
import wandb
from huggingface_hub.utils import _http as hub_http

from .photos import write_photos
from .quick import RESIDENT

MOST_SECONDS = 15.0
"""Of a processor: five where it has nothing else to do, and three times that where others share its caches."""
SHARED_DATA = Path(os.environ.get("LIGHTNING_NOISY_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(autouse=True)
def _own_places(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_NOISY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # A Hub that can't be reached is asked six times: the tests need not wait in between.
    monkeypatch.setattr(hub_http, "time", types.SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None}))
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(LeafSpec|num_workers|litlogger|tensorboardX).*")
        yield
    if wandb.run is not None:  # the next test, and processes that it starts, would go on in it
        wandb.finish()
        wandb.teardown()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Weights that a test draws do not depend on the tests before it."""
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """A test of the default run that takes too long fails: it is to be marked slow."""
    before = sum(os.times()[:4])
    result = yield
    taken = sum(os.times()[:4]) - before  # with the processes that it started
    if taken > MOST_SECONDS and not item.get_closest_marker("slow"):
        pytest.fail(f"takes {taken:.1f} seconds of processor time: make it quicker, or mark it slow", pytrace=False)
    return result


def pytest_configure(config):
    """One resident process for all workers, which imports while they collect: see tests/resident.py."""
    if getattr(config.option, "numprocesses", None):
        folder = Path(tempfile.mkdtemp(prefix="resident-"))
        os.environ[RESIDENT] = str(folder)
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-m", "tests.resident", str(folder)]
        process = subprocess.Popen(command, cwd=Path(__file__).parents[1], env=environment)
        config.add_cleanup(lambda: (process.kill(), shutil.rmtree(folder)))


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="there is no GPU"))


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data; skips where it is not there."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the real data are not at {SHARED_DATA}; set LIGHTNING_NOISY_DATA")
    return SHARED_DATA


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder with three class folders of twelve images each."""
    return write_photos(tmp_path / "photos")


@pytest.fixture
def single_process():
    """A process group of its own, which is gone afterwards, and what Lightning puts into the environment for it."""
    with mock.patch.dict(os.environ, MASTER_PORT="0"):
        yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.fixture
def no_wandb_account(tmp_path, monkeypatch):
    """No key, and W&B's own files where the test's are."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb_home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    wandb.teardown()
    yield
    wandb.finish()
    wandb.teardown()
