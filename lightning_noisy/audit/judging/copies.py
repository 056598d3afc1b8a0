"""Where the same picture is there several times under different labels, each of them tells of its one class."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
import torch
from torch import Tensor

from lightning_noisy.audit.issues.columns import is_in_conflict
from lightning_noisy.audit.judging.scores import ISSUE_BELOW, score_posterior, share_evidence
from lightning_noisy.audit.schema import LOG_PROBS, PROBABILITIES
from lightning_noisy.inference.parts import part_files
from lightning_noisy.utils.atomic_files import write_table

JUDGED = ("p_given", "suggested_label", "p_suggested", "is_issue")
"""What the labels of the copies change."""


def judge_copies_together(
    directory: Path, positions: np.ndarray, labels: np.ndarray, group: np.ndarray, log_evidence: Tensor
) -> None:
    """Writes the parts anew that hold images whose copies have other labels; what was said of the others stays.

    It is worked out from columns that stay as they are, so a run that was killed meanwhile may do it again.

    Args:
        directory: The audit's folder, with all parts.
        positions: (N,) of the audited images.
        labels: (N,) their given labels.
        group: (N,) the group of the same picture; -1 in none.
        log_evidence: (K, K) ``log T``.
    """
    rows = np.flatnonzero(is_in_conflict(group, labels))
    if not len(rows):
        return
    wanted, given = positions[rows], torch.from_numpy(labels[rows])
    log_probs = _log_probs(directory, wanted, len(log_evidence))
    posterior = share_evidence(log_probs.exp(), log_probs, log_evidence, given, torch.from_numpy(group[rows]))
    scored = score_posterior(posterior, log_probs, given, ISSUE_BELOW)
    changed = {name: getattr(scored, name).numpy() for name in JUDGED}
    changed[PROBABILITIES.name] = posterior.numpy()
    for path in part_files(directory):
        place = _places(path, wanted)
        if (place >= 0).any():
            write_table(path, _with_changes(pyarrow.parquet.read_table(path, partitioning=None), place, changed))


def _places(path: Path, wanted: np.ndarray) -> np.ndarray:
    """Of each row of a part its place among the wanted positions, -1 where it is none of them."""
    positions = pyarrow.parquet.read_table(path, columns=["position"], partitioning=None)["position"]
    return pc.fill_null(pc.index_in(positions, value_set=pa.array(wanted)), -1).to_numpy()


def _log_probs(directory: Path, wanted: np.ndarray, num_classes: int) -> Tensor:
    found = torch.empty(len(wanted), num_classes)
    for path in part_files(directory):
        place = _places(path, wanted)
        if (place >= 0).any():
            rows = np.flatnonzero(place >= 0)
            column = pyarrow.parquet.read_table(path, columns=[LOG_PROBS], partitioning=None)[LOG_PROBS].take(
                pa.array(rows)
            )
            values = column.combine_chunks().flatten().to_numpy().reshape(-1, num_classes)
            found[torch.from_numpy(place[rows])] = torch.tensor(values)
    return found


def _with_changes(table: pa.Table, place: np.ndarray, changed: dict[str, np.ndarray]) -> pa.Table:
    rows = np.flatnonzero(place >= 0)
    for name in set(changed) & set(table.column_names):
        number, field = table.column_names.index(name), table.field(name)
        values, new = table[name].combine_chunks(), changed[name][place[rows]]
        is_list = pa.types.is_list(field.type)
        flat = (values.flatten() if is_list else values).to_numpy(zero_copy_only=False)
        array = np.array(flat.reshape(len(table), -1) if is_list else flat)
        array[rows] = new
        table = table.set_column(number, field, pa.array(list(array) if is_list else array, field.type))
    return table
