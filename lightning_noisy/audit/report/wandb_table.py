"""The most suspicious images as a table with pictures in W&B, and how probable all labels are."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger, WandbLogger
from PIL import Image

from lightning_noisy.audit.folder import AuditFolder
from lightning_noisy.audit.schema import HISTOGRAM_FILE
from lightning_noisy.training.loggers.wandb_logger import log_picture, log_table

NAME = "audit/suspicious_images"
HISTOGRAM_NAME = "audit/posterior_histogram"
TABLE_COLUMNS = ("rank", "image", "id", "given_class", "suggested_class", "p_given", "p_suggested", "is_issue")


def log_suspicious_images(loggers: Sequence[Logger], audit: AuditFolder, most_images: int = 100) -> None:
    """Gives the W&B loggers a table of the most suspicious images, and the histogram; other loggers get nothing.

    Args:
        loggers: Of a Trainer.
        audit: The audit.
        most_images: How many images.
    """
    takers = [logger for logger in loggers if isinstance(logger, WandbLogger)]
    if not takers:
        return
    import wandb

    rows: list[list[Any]] = []
    for row in audit.first_rows(most_images):
        picture = audit.images.read(row["split"], row["row"])
        values = {**row, "image": None if picture is None else wandb.Image(picture)}
        rows.append([values[name] for name in TABLE_COLUMNS])
    histogram = audit.directory / HISTOGRAM_FILE
    for logger in takers:
        log_table(logger, NAME, TABLE_COLUMNS, rows)
        if histogram.is_file():  # audits of earlier versions have none
            log_picture(logger, HISTOGRAM_NAME, np.asarray(Image.open(histogram).convert("RGB")))
