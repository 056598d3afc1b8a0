"""What an earlier training has left where a new one writes: moved aside, so that nothing is lost."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import chain, count
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from lightning_noisy.utils.text import relative_path


def keep_earlier_training(trainer: Any, directory: str | Path, names: Sequence[str]) -> None:
    """Moves files of these names aside where a training begins that goes on from no checkpoint, and tells so.

    To be called from ``on_train_start``: only then has a checkpoint been read, and mistakes in data and model have
    ended the program. One process does it.

    Args:
        trainer: Lightning's.
        directory: Where the training will write; one that is far away (``s3://``) is left alone.
        names: What it will write.
    """
    goes_on = trainer.ckpt_path is not None or trainer.global_step > 0
    if trainer.is_global_zero and not (goes_on or trainer.fast_dev_run or "://" in str(directory)):
        move_aside(Path(directory) / name for name in names)


def move_aside(paths: Iterable[Path]) -> None:
    """Moves what is there of these into ``earlier-DATE-TIME/`` beside them, and tells so in a line.

    Args:
        paths: Files and folders that lie in one folder. The newest of them gives the time.
    """
    there = [path for path in paths if path.exists()]
    if not there:
        return
    written = datetime.fromtimestamp(max(path.stat().st_mtime for path in there))
    name = f"earlier-{written:%Y%m%d-%H%M%S}"
    names = chain([name], (f"{name}-{number}" for number in count(2)))
    folder = next(folder for folder in map(there[0].with_name, names) if not folder.exists())
    folder.mkdir()
    for path in there:
        path.rename(folder / path.name)
    kept = ", ".join(path.name for path in there)
    rank_zero_info(f"What an earlier training has left is kept in {relative_path(folder)}: {kept}")
