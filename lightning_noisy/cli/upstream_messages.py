"""What Lightning says that is of no use to somebody who fine-tunes on the command line."""

import logging
import warnings
from pathlib import Path

ADVERTISEMENTS = (
    "💡 Tip:",
    "TPU available: False",
    "Loading `train_dataloader` to estimate",
    "Seed set to",
    "`Trainer.fit` stopped: `max_epochs",  # as it was told to
    "Restoring states from the checkpoint path at",  # a second line says when it is done
)
"""How lines of its log begin that are left out."""
WARNINGS = (
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated",
    r"The number of training batches .* is smaller than the logging interval",
    r"Starting from v1\.9\.0, `tensorboardX` has been removed",
    r"Checkpoint directory .* exists and is not empty",  # what would be replaced is moved aside
    r"The dirpath has changed from",  # of a `validate`, which saves nothing
    r"It is recommended to use `self\.log\('(noise|train|images_per_second)",  # those are equal in all processes
    r"Precision .* is not supported by the model summary",
    r"Found \d+ module\(s\) in eval mode",  # those that are frozen
    r"The '.*' does not have many workers",  # the user has said how many
)
LOGGERS = (
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric.utilities.rank_zero",
    "lightning.fabric.utilities.seed",
)


def silence_upstream_messages() -> None:
    """Leaves them out of this program from here on; all else is said as before."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_is_of_use)
    for message in WARNINGS:
        warnings.filterwarnings("ignore", message=message)


def silence_bars_of_transformers() -> None:
    """Of loading and writing weights that lie on the disk; those of downloads stay."""
    from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
    from transformers.utils.logging import disable_progress_bar

    were_disabled = are_progress_bars_disabled()
    disable_progress_bar()
    if not were_disabled:
        enable_progress_bars()


def format_own_warnings() -> None:
    """Tells a warning of this package or of Lightning without its place in the code; Lightning sets its own way."""
    told = warnings.formatwarning

    def tell(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        path = Path(filename)
        is_plain = path.is_relative_to(Path(__file__).parents[1]) or "lightning" in path.parts
        return f"Warning: {message}\n" if is_plain else told(message, category, filename, lineno, line)

    warnings.formatwarning = tell


def _is_of_use(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(ADVERTISEMENTS)
