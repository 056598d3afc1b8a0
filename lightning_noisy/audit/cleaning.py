"""What becomes of each image of an audit: its label and its weight, by a policy and by what people have decided."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from lightning_noisy.audit.decisions import quote, read_decisions
from lightning_noisy.audit.label_audit import AUDIT_FILE, LabelAudit

Policy = Literal["drop", "relabel", "weight"]
"""What becomes of an image that nobody has decided about. ``"drop"`` leaves out those that are flagged, ``"relabel"``
gives those the suggested label where it is the more probable one, ``"weight"`` keeps all given labels and weighs each
by the probability that it is right."""
BATCH_ROWS = 65_536
_READ = ["id", "path", "split", "row", "given_label", "suggested_label", "p_given", "p_suggested", "is_issue"]


@dataclass(frozen=True)
class ManifestReport:
    """What a policy and decisions have made of an audit.

    Args:
        kept: Images that are left, with whatever label.
        dropped: Images that were left out.
        relabelled: How many of those that are left have another label than the given one.
        reviewed: Images that a person has decided about; ``unsure`` is no decision.
        mean_weight: Of the images that are left; ``None`` where the policy gives no weights.
        splits: How many images are left in each split.
        left_out: What the data hold beside that, in words.
        caution: Why the audit is not to be believed, in a sentence; empty where nothing speaks against it.
    """

    kept: int
    dropped: int
    relabelled: int
    reviewed: int
    mean_weight: float | None
    splits: dict[str, int]
    left_out: list[str] = field(default_factory=list)
    caution: str = ""


class Cleaning:
    """The images of an audit that are left, with their labels; the audit is read in batches, never as a whole.

    Args:
        audit: The audit.
        policy: What becomes of images that nobody has decided about.
        decisions: ``decisions.json``; its decisions win over the policy.

    Raises:
        ValueError: If the policy or the decisions are wrong, or a class would be left without a training image.

    Attributes:
        report: In few numbers.
        has_files: Whether each image that is left has a file of its own.
    """

    def __init__(self, audit: LabelAudit, policy: Policy, decisions: str | Path | None = None) -> None:
        if policy not in get_args(Policy):
            raise ValueError(f"Expected argument `policy` to be 'drop', 'relabel' or 'weight', but got {policy!r}.")
        self.audit = audit
        self.policy = policy
        decided = {} if decisions is None else read_decisions(decisions, audit.summary.audit_id)
        self._ids = _texts(list(decided))
        self._decided = pa.array([None if word == "unsure" else word for word in decided.values()], pa.string())
        self._look()

    @property
    def class_names(self) -> list[str]:
        """The K names."""
        return self.audit.summary.class_names

    def batches(self, rows: int = BATCH_ROWS) -> Iterator[pa.Table]:
        """The images that are left, the most suspicious first, in tables of at most ``rows`` rows.

        The columns are those of the audit and ``label`` and, by the policy ``"weight"``, ``label_weight``.
        """
        for batch in self._read(rows):
            kept, _ = self._apply(batch)
            if len(kept):
                yield kept

    def _read(self, rows: int) -> Iterator[pa.Table]:
        with pyarrow.parquet.ParquetFile(self.audit.directory / AUDIT_FILE) as file:
            for batch in file.iter_batches(rows, columns=_READ):
                yield pa.Table.from_batches([batch])

    def _apply(self, batch: pa.Table) -> tuple[pa.Table, pa.Array]:
        """The rows that are left, and the decision on each row of the batch, null where there is none."""
        if len(self._ids):
            decision = self._decided.take(pc.index_in(batch["id"].combine_chunks(), value_set=self._ids))
        else:
            decision = pa.nulls(len(batch), pa.string())
        by_policy = pc.and_(pc.is_null(decision), batch["is_issue"].combine_chunks())
        accepted, dropped = (pc.fill_null(pc.equal(decision, word), False) for word in ("accept", "drop"))
        if self.policy == "drop":
            dropped = pc.or_(dropped, by_policy)
        elif self.policy == "relabel":
            is_better = pc.greater(batch["p_suggested"], batch["p_given"]).combine_chunks()
            accepted = pc.or_(accepted, pc.and_(by_policy, is_better))
        batch = batch.append_column("label", pc.if_else(accepted, batch["suggested_label"], batch["given_label"]))
        if self.policy == "weight":
            likely = pc.min_element_wise(pc.max_element_wise(batch["p_given"], np.float32(0)), np.float32(1))
            weights = pc.if_else(pc.is_valid(decision), pa.scalar(1, pa.float32()), likely)
            batch = batch.append_column("label_weight", weights)
        return batch.filter(pc.invert(dropped)), decision

    def _look(self) -> None:
        """Goes through all rows once, so that what is wrong shows before anything is written."""
        times = np.zeros(len(self._ids), dtype=np.int64)
        labels = np.zeros(len(self.class_names), dtype=np.int64)
        seen = kept = reviewed = relabelled = 0
        weights, self.has_files, splits = 0.0, True, dict[str, int]()
        for batch in self._read(BATCH_ROWS):
            if len(self._ids):
                found = pc.index_in(batch["id"].combine_chunks(), value_set=self._ids).drop_null()
                times += np.bincount(found.to_numpy(), minlength=len(times))
            left, decision = self._apply(batch)
            seen, kept = seen + len(batch), kept + len(left)
            reviewed += len(decision) - decision.null_count
            relabelled += pc.sum(pc.not_equal(left["label"], left["given_label"])).as_py() or 0
            weights += (pc.sum(left["label_weight"]).as_py() or 0.0) if self.policy == "weight" else 0.0
            self.has_files = self.has_files and left["path"].null_count == 0
            for split in left["split"].unique().to_pylist():
                its_labels = left["label"].filter(pc.equal(left["split"], split)).to_numpy()
                splits[split] = splits.get(split, 0) + len(its_labels)
                labels += np.bincount(its_labels, minlength=len(labels)) if split == "train" else 0
        self._check_ids(times)
        if "train" not in splits:
            raise ValueError(
                f"Expected images for training to be left, but there are none among the {seen} of "
                f"the audit {str(self.audit.directory)!r}. Make an audit of the training images."
            )
        self._check_classes(labels)
        mean = weights / kept if self.policy == "weight" else None
        summary = self.audit.summary
        self.report = ManifestReport(
            kept, seen - kept, relabelled, reviewed, mean, splits, summary.left_out, summary.caution
        )

    def _check_ids(self, times: np.ndarray) -> None:
        for wrong, problem in ((times == 0, "not in this audit"), (times > 1, "in it more than once")):
            if wrong.any():
                first = self._ids[int(np.flatnonzero(wrong)[0])].as_py()
                raise ValueError(
                    f"Expected the decisions to name images of this audit by ids that are in it once, but "
                    f"{quote(first)} is {problem}, and so are {int(wrong.sum())} ids in all. Save the decisions from "
                    "this audit's own report."
                )

    def _check_classes(self, labels: np.ndarray) -> None:
        empty = np.flatnonzero(labels == 0)
        if len(empty):
            names = ", ".join(quote(self.class_names[label]) for label in empty[:5])
            more = f" and {len(empty) - 5} more" if len(empty) > 5 else ""
            raise ValueError(
                f"Nothing was written: policy {self.policy!r} would leave class {names}{more} without an image for "
                "training. Decide to keep some of its images, or use the policy 'weight'."
            )


def _texts(ids: list[str]) -> pa.StringArray:
    try:
        return pa.array(ids, pa.string())
    except UnicodeEncodeError as error:  # JSON can name half of a character, no audit has that
        raise ValueError(
            f"Expected the decisions to name images of this audit, but got the id {quote(error.object)}."
        ) from error
