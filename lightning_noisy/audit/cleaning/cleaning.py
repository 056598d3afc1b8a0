"""What becomes of each image of an audit: its label and its weight, by a policy and by what people have decided."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from lightning_noisy.audit.cleaning.decisions import DECISIONS, read_decisions
from lightning_noisy.audit.cleaning.plan import DEFAULT_KINDS, REASONS, UNDECIDED, check_kinds, make_plan
from lightning_noisy.audit.folder import AuditFolder
from lightning_noisy.audit.schema import AUDIT_FILE, LABEL_KIND
from lightning_noisy.utils.text import quote

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
        reasons: How many images were left out for each reason: ``decision``, a kind of issue, or ``leak``, of a picture
            that a later split has too.
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
    reasons: dict[str, int] = field(default_factory=dict)


class Cleaning:
    """The images of an audit that are left, with their labels; the audit is read in batches, never as a whole.

    Args:
        audit: The audit.
        policy: What becomes of images that nobody has decided about.
        decisions: ``decisions.json``; its decisions win over the policy.
        kinds: The kinds of issues of which the images are cleaned. Wrong labels are what the policy makes of them; of
            one picture one copy is kept, and none where a later split (train, val, test) has it too; images of all
            other kinds are left out.

    Raises:
        ValueError: If the policy, a kind or the decisions are wrong, or a class would be left without a training image.

    Attributes:
        report: In few numbers.
        has_files: Whether each image that is left has a file of its own.
    """

    def __init__(
        self,
        audit: AuditFolder,
        policy: Policy,
        decisions: str | Path | None = None,
        kinds: Sequence[str] = DEFAULT_KINDS,
    ) -> None:
        if policy not in get_args(Policy):
            raise ValueError(f"Expected argument `policy` to be 'drop', 'relabel' or 'weight', but got {policy!r}.")
        check_kinds(kinds)
        self.audit = audit
        self.policy = policy
        self.kinds = tuple(kinds)
        decided = {} if decisions is None else read_decisions(decisions, audit.summary.audit_id)
        ids = _texts(list(decided))
        self._plan = make_plan(audit.directory / AUDIT_FILE, ids, list(decided.values()), kinds)
        self._check_ids(ids, self._plan.times)
        self._look()

    @property
    def class_names(self) -> list[str]:
        """The K names."""
        return self.audit.summary.class_names

    def batches(self, rows: int = BATCH_ROWS) -> Iterator[pa.Table]:
        """The images that are left, the most suspicious first, in tables of at most ``rows`` rows.

        The columns are those of the audit and ``label`` and, by the policy ``"weight"``, ``label_weight``.
        """
        first = 0
        for batch in self._read(rows):
            kept = self._apply(batch, slice(first, first + len(batch)))
            first += len(batch)
            if len(kept):
                yield kept

    def _read(self, rows: int) -> Iterator[pa.Table]:
        with pyarrow.parquet.ParquetFile(self.audit.directory / AUDIT_FILE) as file:
            columns = [*_READ, *({"is_outlier"} & set(file.schema_arrow.names))]
            for batch in file.iter_batches(rows, columns=columns):
                yield pa.Table.from_batches([batch])

    def _apply(self, batch: pa.Table, place: slice) -> pa.Table:
        """The rows of a batch that are left; ``place`` is where in the audit they are."""
        decision = self._plan.decision[place]
        by_policy = _values(batch, "is_issue") & (decision == UNDECIDED) & (LABEL_KIND in self.kinds)
        accepted = decision == DECISIONS.index("accept")
        dropped = self._plan.reason[place] > 0
        if self.policy == "drop":
            dropped |= by_policy
        elif self.policy == "relabel":
            is_better = _values(batch, "p_suggested") > _values(batch, "p_given")
            accepted |= by_policy & is_better & ~_values(batch, "is_outlier")  # which shows none of the classes
        batch = batch.append_column(
            "label", pc.if_else(pa.array(accepted), batch["suggested_label"], batch["given_label"])
        )
        if self.policy == "weight":
            weights = np.where(decision == UNDECIDED, _values(batch, "p_given").clip(0, 1), np.float32(1))
            batch = batch.append_column("label_weight", pa.array(weights, pa.float32()))
        return batch.filter(pa.array(~dropped))

    def _look(self) -> None:
        """Goes through all rows once, so that what is wrong shows before anything is written."""
        labels = np.zeros(len(self.class_names), dtype=np.int64)
        seen = kept = relabelled = 0
        weights, self.has_files, splits = 0.0, True, dict[str, int]()
        for batch in self._read(BATCH_ROWS):
            left = self._apply(batch, slice(seen, seen + len(batch)))
            seen, kept = seen + len(batch), kept + len(left)
            relabelled += pc.sum(pc.not_equal(left["label"], left["given_label"])).as_py() or 0
            weights += (pc.sum(left["label_weight"]).as_py() or 0.0) if self.policy == "weight" else 0.0
            self.has_files = self.has_files and left["path"].null_count == 0
            for split in left["split"].unique().to_pylist():
                its_labels = left["label"].filter(pc.equal(left["split"], split)).to_numpy()
                splits[split] = splits.get(split, 0) + len(its_labels)
                labels += np.bincount(its_labels, minlength=len(labels)) if split == "train" else 0
        if "train" not in splits:
            self._raise_none_for_training(seen)
        self._check_classes(labels)
        mean = weights / kept if self.policy == "weight" else None
        summary = self.audit.summary
        reasons = {reason: self._plan.count(reason) for reason in REASONS[1:]}
        reasons[LABEL_KIND] = seen - kept - sum(reasons.values())
        self.report = ManifestReport(
            kept, seen - kept, relabelled, int((self._plan.decision != UNDECIDED).sum()), mean, splits,
            summary.left_out, summary.caution, {reason: count for reason, count in reasons.items() if count},
        )  # fmt: skip

    def _raise_none_for_training(self, seen: int) -> None:
        leaks = self._plan.count("leak")
        also = f" ({leaks:,} were left out because their pictures are in a later split too)" if leaks else ""
        raise ValueError(
            f"Expected images for training to be left, but there are none among the {seen} of "
            f"the audit {str(self.audit.directory)!r}{also}. Make an audit of the training images, or take fewer "
            "`kinds`."
        )

    def _check_ids(self, ids: pa.StringArray, times: np.ndarray) -> None:
        for wrong, problem in ((times == 0, "not in this audit"), (times > 1, "in it more than once")):
            if wrong.any():
                first = ids[int(np.flatnonzero(wrong)[0])].as_py()
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
                "training. Decide to keep some of its images, use the policy 'weight', or take fewer `kinds`."
            )


def _values(batch: pa.Table, name: str) -> np.ndarray:
    """(B,) of a column; of flags that an audit has not, false."""
    if name not in batch.column_names:
        return np.zeros(len(batch), dtype=bool)
    column = batch[name]
    return (pc.fill_null(column.cast(pa.bool_()), False) if name.startswith("is_") else column).to_numpy()


def _texts(ids: list[str]) -> pa.StringArray:
    try:
        return pa.array(ids, pa.string())
    except UnicodeEncodeError as error:  # JSON can name half of a character, no audit has that
        raise ValueError(
            f"Expected the decisions to name images of this audit, but got the id {quote(error.object)}."
        ) from error
