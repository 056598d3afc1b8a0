"""How sure an audit is of the given labels, as a picture."""

from pathlib import Path

import numpy as np
import pyarrow.dataset

from lightning_noisy.audit.folder import READ_ROWS
from lightning_noisy.audit.schema import AUDIT_FILE, HISTOGRAM_FILE
from lightning_noisy.pictures import draw_posterior_histogram

BINS = 40


def write_histogram(directory: Path) -> None:
    """Draws how probable the given labels of ``audit.parquet`` are into ``posterior_histogram.png``, in bounded memory.

    Args:
        directory: The audit's folder.
    """
    counts = np.zeros((2, BINS), dtype=np.int64)
    table = pyarrow.dataset.dataset(directory / AUDIT_FILE)
    for batch in table.to_batches(columns=["p_given", "is_issue"], batch_size=READ_ROWS):
        is_issue = batch["is_issue"].to_numpy(zero_copy_only=False)
        for flag in (0, 1):
            counts[flag] += np.histogram(batch["p_given"].to_numpy()[is_issue == flag], BINS, (0, 1))[0]
    kept, flagged = counts
    draw_posterior_histogram(directory / HISTOGRAM_FILE, kept, flagged, f"{counts.sum():,} given labels")
