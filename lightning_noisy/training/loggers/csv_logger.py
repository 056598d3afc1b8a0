"""A CSV log that survives a resume: every step once."""

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from lightning_noisy.training.earlier_training import move_aside
from lightning_noisy.utils.atomic_files import atomic_path

STEP = "step"


class NoisyCSVLogger(CSVLogger):
    """Lightning's :class:`~lightning.pytorch.loggers.CSVLogger` that loses no step and has none twice after a resume.

    The file of a training that resumes from a checkpoint starts with the rows that its first part had written up to the
    checkpoint, so that it is whole; the first part's own file stays as it is, unless it is the same one. A kill never
    leaves half a file. What is not reached: a row that was to be written in the moment of the kill, after the
    checkpoint of its step, is lost; after a resume in the middle of an epoch the means of that epoch are those of its
    rest.

    Args:
        args, kwargs: As of :class:`~lightning.pytorch.loggers.CSVLogger`; for files on this machine.
    """

    @property
    @rank_zero_experiment
    def experiment(self) -> "CSVWriter":
        """Writes ``metrics.csv``."""
        if self._experiment is None:
            self._experiment = CSVWriter(self.log_dir)
        return self._experiment  # type: ignore[return-value]

    @property
    def metrics_file(self) -> str:
        """Where the metrics are."""
        return str(Path(self.log_dir).absolute() / ExperimentWriter.NAME_METRICS_FILE)

    @rank_zero_only
    def go_on(self, metrics_file: str, global_step: int) -> None:
        """Takes over the rows of the steps before ``global_step``."""
        if not Path(metrics_file).is_file():
            rank_zero_warn(
                f"The CSV log begins with step {global_step}: its first part is not at {metrics_file!r} any more."
            )
            return
        self.experiment.start_with([row for row in read_rows(metrics_file) if int(row[STEP]) < global_step])


class CSVWriter(ExperimentWriter):
    """Appends rows; replaces the file as a whole where its columns change."""

    def __init__(self, log_dir: str) -> None:
        self._has_old_file = False
        self._last_steps: dict[str, int] = {}
        super().__init__(log_dir)

    def start_with(self, rows: Sequence[Mapping[str, str]]) -> None:
        """Makes a file of these rows; what they have is not logged again."""
        self._has_old_file = False
        self.metrics_keys = sorted({name for row in rows for name in row} | {STEP})
        for row in rows:
            self._last_steps.update(dict.fromkeys((name for name, value in row.items() if value), int(row[STEP])))
        self._replace(rows)

    def log_metrics(self, metrics_dict: dict[str, Any], step: int | None = None) -> None:
        step = len(self.metrics) if step is None else step
        fresh = {name: value for name, value in metrics_dict.items() if step > self._last_steps.get(name, -1)}
        if fresh and (len(fresh) == len(metrics_dict) or set(fresh) != {"epoch"}):
            super().log_metrics(fresh, step)

    def save(self) -> None:
        if self.metrics and self._has_old_file:  # of another training, which Lightning would delete
            move_aside([Path(self.metrics_file_path)])
            self._has_old_file = False
        super().save()

    def _check_log_dir_exists(self) -> None:
        # A checkpoint that is read later may want the rows.
        self._has_old_file = os.path.isfile(self.metrics_file_path)

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        self._replace(read_rows(self.metrics_file_path))

    def _replace(self, rows: Sequence[Mapping[str, str]]) -> None:
        os.makedirs(self.log_dir, exist_ok=True)
        with (
            atomic_path(Path(self.metrics_file_path)) as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, fieldnames=self.metrics_keys)
            writer.writeheader()
            writer.writerows(rows)


def read_rows(path: str | Path) -> list[dict[str, str]]:
    """The rows of a log, without one that a kill has left unfinished."""
    with open(path, newline="", encoding="utf-8") as file:
        lines = file.read().splitlines(keepends=True)
    return list(csv.DictReader(line for line in lines if line.endswith("\n")))
