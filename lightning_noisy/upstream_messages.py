"""What Lightning says that is of no use to somebody who fine-tunes on the command line."""

import logging
import warnings

ADVERTISEMENTS = ("💡 Tip:", "TPU available: False", "Loading `train_dataloader` to estimate")
"""How lines of its log begin that are left out."""
WARNINGS = (
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated",
    r"The number of training batches .* is smaller than the logging interval",
    r"Starting from v1\.9\.0, `tensorboardX` has been removed",
)
LOGGERS = ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero")


def leave_out_upstream_messages() -> None:
    """Leaves them out of this program from here on; all else is said as before."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_is_of_use)
    for message in WARNINGS:
        warnings.filterwarnings("ignore", message=message)


def _is_of_use(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(ADVERTISEMENTS)
