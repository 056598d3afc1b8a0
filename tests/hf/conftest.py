import gc

import pytest


@pytest.fixture(autouse=True, scope="package")
def _quick_garbage_collection():
    """The Trainer collects garbage whenever it starts, which takes longer than these trainings: not of imports."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
