"""The checkpoint that exports are tested with is pushed too."""

from ..export.conftest import lightning_checkpoint  # noqa: F401
