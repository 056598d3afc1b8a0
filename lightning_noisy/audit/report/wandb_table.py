"""The most suspicious images as a table with pictures in W&B."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger

from lightning_noisy.audit.folder import AuditFolder
from lightning_noisy.training.loggers.wandb_logger import log_table

NAME = "audit/suspicious_images"
TABLE_COLUMNS = ("rank", "image", "id", "given_class", "suggested_class", "p_given", "p_suggested", "is_issue")


def log_suspicious_images(loggers: Sequence[Logger], audit: AuditFolder, most_images: int = 100) -> None:
    """Gives the W&B loggers a table of the most suspicious images; other loggers get nothing.

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
    for logger in takers:
        log_table(logger, NAME, TABLE_COLUMNS, rows)
