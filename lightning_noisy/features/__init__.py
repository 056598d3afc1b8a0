"""Features of a frozen backbone, computed once: a table on disk that is read mapped into memory."""

from lightning_noisy.features.extract import extract_features
from lightning_noisy.features.table import Features, read_features

__all__ = ["Features", "extract_features", "read_features"]
