"""An audit as a data set: the given label beside the cleaned one, in memory-mapped files and on the Hub."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import datasets
import pyarrow.compute as pc
import pyarrow.parquet
from datasets.exceptions import DatasetGenerationError
from datasets.fingerprint import Hasher
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, DatasetCard

from lightning_noisy._version import __version__
from lightning_noisy.audit.cleaning.cleaning import Cleaning, Policy
from lightning_noisy.audit.cleaning.dataset_card import DATA_TAG, HUB_SPLITS, render_dataset_card
from lightning_noisy.audit.cleaning.image_cells import check_files, with_images
from lightning_noisy.audit.cleaning.plan import DEFAULT_KINDS
from lightning_noisy.audit.folder import AuditFolder
from lightning_noisy.audit.schema import AUDIT_FILE
from lightning_noisy.export.card_options import check_license, check_repo_id
from lightning_noisy.hub.commit import PushError, Repository, Target, open_repository
from lightning_noisy.hub.push import PushReport

CARD_FILE = "README.md"
IMAGES_AT_ONCE = 256
SHARD_BYTES = 500_000_000
"""A Parquet file is closed when it has become larger than this."""


def to_dataset(
    audit: AuditFolder,
    policy: Policy = "relabel",
    decisions: str | Path | None = None,
    kinds: Sequence[str] = DEFAULT_KINDS,
) -> datasets.Dataset:
    """The images with their cleaned labels and the given ones, the most suspicious first.

    An image that has a file of its own stays there. The rows lie in the cache of ``datasets``, where the next call with
    the same arguments finds them.

    Args:
        audit: The audit.
        policy: ``"drop"``, ``"relabel"`` or ``"weight"``: what becomes of images that nobody has decided about.
        decisions: ``decisions.json``; its decisions win over the policy.
        kinds: The kinds of issues to clean, as of :class:`~lightning_noisy.audit.cleaning.cleaning.Cleaning`.

    Raises:
        ValueError: If an argument is wrong, a class would be left without a training image, or images are gone.
    """
    cleaning = Cleaning(audit, policy, decisions, kinds)
    content = None if decisions is None else Path(decisions).read_bytes()

    def rows() -> Iterator[dict[str, Any]]:
        for table in cleaning.batches(IMAGES_AT_ONCE):
            yield from with_images(table, audit, embed=False).select(list(features)).to_pylist()

    features = _features(cleaning, with_split=True)
    for table in cleaning.batches():  # the cache does not notice that a file has gone
        check_files(table.filter(pc.is_valid(table["path"])))
    status = (audit.directory / AUDIT_FILE).stat()
    state = [str(audit.directory.absolute()), status.st_mtime_ns, status.st_size]
    fingerprint = Hasher.hash([__version__, audit.summary.audit_id, *state, policy, content, *kinds])
    try:
        return datasets.Dataset.from_generator(rows, features=features, fingerprint=fingerprint)
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, ValueError):
            raise error.__cause__ from None
        raise


def push_to_hub(
    audit: AuditFolder,
    repo_id: str,
    *,
    policy: Policy = "relabel",
    decisions: str | Path | None = None,
    kinds: Sequence[str] = DEFAULT_KINDS,
    license: str | None = None,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
    commit_message: str | None = None,
) -> PushReport:
    """Pushes the images, the cleaned labels, the given ones and a data card in one commit.

    If it fails, the repository is as it was (at most new and empty), and the same call can be repeated. What a push of
    an audit has put there before is replaced; a repository with other files is refused.

    Args:
        audit: The audit.
        repo_id: The data set's repository on the Hub, made if it does not exist.
        policy: As of :func:`to_dataset`.
        decisions: As of :func:`to_dataset`.
        kinds: As of :func:`to_dataset`.
        license: The licence of images and labels by the Hub's identifier.
        private: Whether a new repository is private. One that is public already is refused.
        revision: The branch, made if it does not exist; ``main`` by default.
        create_pr: Whether to open a pull request instead.
        token: A token with write permission; the one of ``hf auth login`` or ``HF_TOKEN`` by default.
        commit_message: The commit's title.

    Raises:
        ValueError: If an argument is wrong, a class would be left without a training image, or images are gone.
        PushError: If the Hub refuses or can't be reached.
    """
    check_license(license, "the images and their labels", "the licences of the data it was made from")
    check_repo_id("repo_id", repo_id)
    cleaning = Cleaning(audit, policy, decisions, kinds)
    message = commit_message or f"Audited labels, by lightning-noisy {__version__}"
    target = Target(repo_id, "dataset", private, revision, create_pr, token, message)
    with tempfile.TemporaryDirectory(prefix="lightning-noisy-") as temporary:
        files = {f"data/{path.name}": path for path in _write_shards(cleaning, Path(temporary))}
        card = render_dataset_card(cleaning, repo_id, str(license), revision)
        files[CARD_FILE] = Path(temporary, CARD_FILE)
        files[CARD_FILE].write_text(card, encoding="utf-8")
        sizes = {name: path.stat().st_size for name, path in files.items()}
        with open_repository(target) as repository:
            old = _files_to_replace(repository)
            additions = [CommitOperationAdd(name, path) for name, path in files.items()]
            deletions = [CommitOperationDelete(name) for name in old if name not in files]
            url = repository.commit([*additions, *deletions])
            return PushReport(repository.repo_id, sizes, card, url)


def _features(cleaning: Cleaning, with_split: bool) -> datasets.Features:
    classes = datasets.ClassLabel(names=cleaning.class_names)
    features: dict[str, Any] = {
        "image": datasets.Image(),
        "label": classes,
        "given_label": classes,
        "suggested_label": classes,
        "p_given": datasets.Value("float32"),
        "is_issue": datasets.Value("bool"),
        "id": datasets.Value("string"),
        **({"split": datasets.Value("string")} if with_split else {}),
        **({"label_weight": datasets.Value("float32")} if cleaning.policy == "weight" else {}),
    }
    return datasets.Features(features)


def _write_shards(cleaning: Cleaning, folder: Path) -> list[Path]:
    """Parquet files of each split, images embedded, none much larger than :data:`SHARD_BYTES`."""
    schema = _features(cleaning, with_split=False).arrow_schema
    own_folder = _common_folder(cleaning)
    paths: list[Path] = []
    with ExitStack() as stack:
        writers: dict[str, tuple[pyarrow.parquet.ParquetWriter, Path]] = {}
        numbers = dict.fromkeys(HUB_SPLITS, 0)
        for table in cleaning.batches(IMAGES_AT_ONCE):
            table = with_images(table, cleaning.audit, embed=True)
            if own_folder:
                is_below = pc.starts_with(table["id"], own_folder)
                names = pc.if_else(is_below, pc.utf8_slice_codeunits(table["id"], len(own_folder)), table["id"])
                table = table.set_column(table.column_names.index("id"), "id", names)
            for split in table["split"].unique().to_pylist():
                if split not in writers:
                    path = folder / f"{HUB_SPLITS[split]}-{numbers[split]:05}.parquet"
                    numbers[split] += 1
                    paths.append(path)
                    writers[split] = stack.enter_context(pyarrow.parquet.ParquetWriter(path, schema)), path
                writer, path = writers[split]
                its_rows = table.filter(pc.equal(table["split"], split))
                writer.write_table(its_rows.select(schema.names).cast(schema))
                if path.stat().st_size > SHARD_BYTES:
                    writer.close()
                    del writers[split]
    return paths


def _common_folder(cleaning: Cleaning) -> str:
    """The folder that all ids which are whole paths start with: it is nobody's business but the user's."""
    whole = [table["id"].filter(pc.starts_with(table["id"], os.sep)) for table in cleaning.batches()]
    extremes = [pc.min_max(ids) for ids in whole if len(ids)]
    if not extremes:
        return ""
    low = min(each["min"].as_py() for each in extremes)
    high = max(each["max"].as_py() for each in extremes)
    return os.path.join(os.path.commonpath([os.path.dirname(low), os.path.dirname(high)]), "")


def _files_to_replace(repository: Repository) -> list[str]:
    """What an earlier push of an audit has put there; raises a :class:`PushError` where there is anything else."""
    names = [name for name in repository.file_names() if name != ".gitattributes"]
    if names and not (CARD_FILE in names and _is_card_of_ours(repository.read_text(CARD_FILE))):
        raise PushError(
            f"Nothing was pushed: {repository.repo_id!r} holds other files than those of an audit, such as "
            f"{names[0]!r}. Name another repository."
        )
    return [name for name in names if name.startswith("data/") and name.endswith(".parquet")]


def _is_card_of_ours(text: str) -> bool:
    try:
        return DATA_TAG in (DatasetCard(text).data.get("tags") or [])
    except Exception:  # YAML raises many kinds
        return False
