"""A new manifest of an audit's images with their cleaned labels; the user's own files stay as they are."""

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lightning_noisy._version import __version__
from lightning_noisy.audit.cleaning.cleaning import BATCH_ROWS, Cleaning, ManifestReport, Policy
from lightning_noisy.audit.cleaning.image_cells import check_files, with_images
from lightning_noisy.audit.cleaning.plan import DEFAULT_KINDS, in_words
from lightning_noisy.audit.folder import AuditFolder
from lightning_noisy.utils.atomic_files import atomic_path
from lightning_noisy.utils.text import quote

SUFFIXES = (".parquet", ".csv", ".jsonl")
METADATA_KEY = b"lightning_noisy"
IMAGES_AT_ONCE = 256
"""Images that are in memory together where a table holds the images themselves."""
_COLUMNS = ["id", "path", "label", "given_label", "split", "p_given"]


def write_manifest(
    audit: AuditFolder,
    policy: Policy,
    output: str | Path,
    decisions: str | Path | None = None,
    kinds: Sequence[str] = DEFAULT_KINDS,
) -> ManifestReport:
    """Writes a manifest that :class:`~lightning_noisy.data.NoisyImageDataModule` reads, the most suspicious first.

    In Parquet ``label`` and ``given_label`` are class numbers with the names of all classes, in CSV and JSONL names.
    Images that have no file of their own are in the table themselves.

    Args:
        audit: The audit.
        policy: ``"drop"``, ``"relabel"`` or ``"weight"``: what becomes of images that nobody has decided about.
        output: The file: .parquet, .csv or .jsonl. A manifest that this has written before is replaced, no other file.
        decisions: ``decisions.json``; its decisions win over the policy.
        kinds: The kinds of issues to clean, as of :class:`~lightning_noisy.audit.cleaning.cleaning.Cleaning`.

    Raises:
        ValueError: If an argument is wrong, a class would be left without a training image, or images are gone.
    """
    output = Path(output).expanduser()
    _check_output(output, audit)
    cleaning = Cleaning(audit, policy, decisions, kinds)
    suffix = output.suffix.lower()
    if suffix != ".parquet":
        _check_text_format(cleaning, suffix)
    writers: dict[str, Callable[[Cleaning, Path], None]] = {
        ".parquet": _write_parquet,
        ".csv": _write_csv,
        ".jsonl": _write_jsonl,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(output) as temporary:
        writers[suffix](cleaning, temporary)
    return cleaning.report


def show_report(console: Console, report: ManifestReport) -> None:
    """Shows what a policy and decisions have made of an audit."""
    if report.caution:
        console.print(escape(report.caution), style="bold yellow", highlight=False)
    table = Table()
    table.add_column("images")
    table.add_column("count", justify="right")
    for split, count in report.splits.items():
        table.add_row(f"kept for {split}", f"{count:,}")
    table.add_row("kept", f"{report.kept:,}")
    table.add_row("dropped", f"{report.dropped:,}")
    for reason, count in report.reasons.items():
        table.add_row(f"  {in_words(reason)}", f"{count:,}")
    for name in ("relabelled", "reviewed"):
        table.add_row(name, f"{getattr(report, name):,}")
    if report.mean_weight is not None:
        table.add_row("mean weight", f"{report.mean_weight:.3f}")
    console.print(table)
    if report.left_out:
        words = ", ".join(report.left_out)
        console.print(f"Not in the manifest: {words}. Images come back by `data.val_source` and `data.test_source`.")


def _write_parquet(cleaning: Cleaning, path: Path) -> None:
    import datasets

    features: dict[str, Any] = {
        "id": datasets.Value("string"),
        **({"path": datasets.Value("string")} if cleaning.has_files else {"image": datasets.Image()}),
        "label": datasets.ClassLabel(names=cleaning.class_names),
        "given_label": datasets.ClassLabel(names=cleaning.class_names),
        "split": datasets.Value("string"),
        "p_given": datasets.Value("float32"),
        **({"label_weight": datasets.Value("float32")} if cleaning.policy == "weight" else {}),
    }
    schema = datasets.Features(features).arrow_schema
    facts = {"version": __version__, "audit_id": cleaning.audit.summary.audit_id, "policy": cleaning.policy}
    schema = schema.with_metadata({**schema.metadata, METADATA_KEY: json.dumps(facts)})
    with pyarrow.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for table in cleaning.batches(BATCH_ROWS if cleaning.has_files else IMAGES_AT_ONCE):
            if cleaning.has_files:
                check_files(table)
            else:
                table = with_images(table, cleaning.audit, embed=False)
            writer.write_table(table.select(schema.names).cast(schema))


def _write_csv(cleaning: Cleaning, path: Path) -> None:
    # A manifest is for machines: names stay as they are, also those that a spreadsheet would take for a formula.
    writer: pyarrow.csv.CSVWriter | None = None
    for table in _with_names(cleaning):
        writer = writer or pyarrow.csv.CSVWriter(path, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def _write_jsonl(cleaning: Cleaning, path: Path) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for table in _with_names(cleaning):
            file.writelines(json.dumps(row) + "\n" for row in table.to_pylist())


def _with_names(cleaning: Cleaning) -> Iterator[pa.Table]:
    """The columns of a text manifest, with names for class numbers."""
    names = pa.array(cleaning.class_names, pa.string())
    weight = ["label_weight"] if cleaning.policy == "weight" else []
    for table in cleaning.batches():
        check_files(table)
        for column in ("label", "given_label"):
            values = names.take(table[column].combine_chunks())
            table = table.set_column(table.column_names.index(column), column, values)
        yield table.select([*_COLUMNS, *weight])


def _check_output(output: Path, audit: AuditFolder) -> None:
    if output.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"Expected argument `output` to be a manifest ending in {', '.join(SUFFIXES)}, but got {output.name!r}."
        )
    source: Mapping[str, Any] = audit.summary.source
    own = [source.get(name) for name in ("source", "val_source", "test_source")]
    if str(output.absolute()) in own or any(
        output.exists() and path and Path(path).exists() and output.samefile(path) for path in own
    ):
        raise ValueError(
            f"Expected argument `output` to be a new file, but {str(output)!r} is where the images of this audit come "
            "from. Give it another name."
        )
    if output.exists() and not _is_manifest_of_ours(output):
        raise ValueError(
            f"Expected argument `output` to be a new file, but {str(output)!r} exists and is no manifest that `apply` "
            "has written. Give it another name, or move that file away."
        )


def _is_manifest_of_ours(path: Path) -> bool:
    if not path.is_file():
        return False
    if path.suffix.lower() == ".parquet":
        try:
            return METADATA_KEY in (pyarrow.parquet.read_schema(path).metadata or {})
        except (pa.ArrowException, OSError):  # no Parquet
            return False
    with open(path, encoding="utf-8", errors="replace") as file:
        line = file.readline(1000)
    if path.suffix.lower() == ".csv":
        columns = line.strip().replace('"', "").split(",")
    else:
        columns = [name for name in _COLUMNS if f'"{name}": ' in line]
    return columns[: len(_COLUMNS)] == _COLUMNS


def _check_text_format(cleaning: Cleaning, suffix: str) -> None:
    remedy = "Write a manifest that ends in .parquet."
    if not cleaning.has_files:
        raise ValueError(
            f"Expected argument `output` to end in .parquet, but got {suffix!r}, which can't hold the images of this "
            f"audit that have no file of their own. {remedy}"
        )
    names = cleaning.class_names
    if names == [str(number) for number in range(len(names))]:
        return  # as names and as class numbers they are the same
    found = _read_back(names, suffix)
    wrong = next((name for name, again in zip(names, found, strict=True) if name != again or not name.strip()), None)
    if wrong is not None:
        raise ValueError(
            f"Expected argument `output` to end in .parquet, but got {suffix!r}, from which the class name "
            f"{quote(wrong)} would be read as something else. {remedy}"
        )


def _read_back(names: list[str], suffix: str) -> list[Any]:
    """What a reader that guesses types makes of the names, each of which is in the manifest."""
    file = io.BytesIO()
    if suffix == ".csv":
        pyarrow.csv.write_csv(pa.table({"label": names}), file)
        options = pyarrow.csv.ParseOptions(newlines_in_values=True)
        return pyarrow.csv.read_csv(io.BytesIO(file.getvalue()), parse_options=options)["label"].to_pylist()
    file.writelines(json.dumps({"label": name}).encode() + b"\n" for name in names)
    return pyarrow.json.read_json(io.BytesIO(file.getvalue()))["label"].to_pylist()
