import io
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from lightning_noisy import NoisyImageDataModule
from lightning_noisy.audit import LabelAudit
from lightning_noisy.audit.cleaning.manifest import show_report, write_manifest

from ...photos import draw_image
from ..made import audit_of, hashes, labelled, make_audit, write_decisions

HOSTILE = [
    "=1+1",
    "@cmd|' /C calc'!A0",
    "<script>alert(1)</script>",
    'a"b,c\nd',
    "\u202eevil",
    "x" * 10_000,
    " lead",
    "NA",
]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A data module of digits with known noise, and its audit."""
    data = NoisyImageDataModule("digits", noise="uniform:0.3", val_fraction=0.2, seed=3)
    return data, audit_of(tmp_path_factory.mktemp("audit"), data, row_group_size=100)


@pytest.mark.parametrize("policy", ["drop", "relabel", "weight"])
def test_cleaned_digits_are_what_the_next_training_reads(policy, digits, tmp_path):
    data, audit = digits
    before = hashes(audit.directory)
    report = write_manifest(LabelAudit(audit.directory), policy, tmp_path / "clean.parquet")
    again = NoisyImageDataModule(str(tmp_path / "clean.parquet"), id_column="id")
    assert again.class_names == data.class_names
    p_given = dict(zip(audit.table["id"].to_pylist(), audit.table["p_given"].to_pylist(), strict=True))
    for split in ("train", "val"):
        images = data.splits[split]
        rows = zip(images.ids.to_pylist(), images.noisy_labels, images.clean_labels, strict=True)
        wanted = {}
        for name, given, clean in rows:
            label = clean if policy == "relabel" else given
            weighs = policy == "weight" and split == "train"  # nothing else looks at weights
            if policy != "drop" or given == clean:
                wanted[name] = (str(label), p_given[name] if weighs else 1.0)
        assert labelled(again, split) == wanted
    wrong = sum(int((images.noisy_labels != images.clean_labels).sum()) for images in audited(data))
    assert report.kept == len(audit.table) - (wrong if policy == "drop" else 0)
    assert report.dropped == (wrong if policy == "drop" else 0)
    assert report.relabelled == (wrong if policy == "relabel" else 0)
    assert report.reviewed == 0
    assert (report.mean_weight is None) if policy != "weight" else 0.5 < report.mean_weight < 0.8
    assert report.splits == {split: len(images) for split, images in again.splits.items()}
    assert hashes(audit.directory) == before


def audited(data):
    return [data.splits["train"], data.splits["val"]]


def test_the_images_in_a_manifest_are_the_ones_that_were_audited(digits, tmp_path):
    data, audit = digits
    write_manifest(LabelAudit(audit.directory), "relabel", tmp_path / "clean.parquet")
    again = NoisyImageDataModule(str(tmp_path / "clean.parquet"), id_column="id").splits["val"]
    images = data.splits["val"]
    places = {name: row for row, name in enumerate(again.ids.to_pylist())}
    for row in range(0, len(images), 29):
        pixels = np.asarray(again.read(places[images.ids[row].as_py()]))
        assert np.array_equal(pixels, np.asarray(images.read(row)))


def test_decisions_win_over_the_policy(digits, tmp_path):
    _, audit = digits
    rows = audit.table.to_pylist()
    train = [row for row in rows if row["split"] == "train"]
    flagged, fine = train[:5], train[-5:]
    words = ["accept", "keep", "drop", "unsure"]
    decided = {row["id"]: word for row, word in zip(flagged, words, strict=False)}
    decided |= {row["id"]: word for row, word in zip(fine, words, strict=False)}
    path = write_decisions(tmp_path / "decisions.json", audit, decided)
    report = write_manifest(audit, "weight", tmp_path / "clean.parquet", path)
    found = labelled(NoisyImageDataModule(str(tmp_path / "clean.parquet"), id_column="id"), "train")
    for row in train:
        given = (row["given_class"], row["p_given"])
        expected = {
            "accept": (row["suggested_class"], 1.0),
            "keep": (row["given_class"], 1.0),
            "drop": None,
        }.get(decided.get(row["id"]), given)
        assert found.get(row["id"]) == expected
    assert (report.dropped, report.reviewed, report.relabelled) == (2, 6, 1)
    report = write_manifest(audit, "drop", tmp_path / "clean.parquet", path)
    issues = sum(row["is_issue"] for row in rows)
    assert report.dropped == issues - 2 + 1, "two flagged ones were decided to stay, one that was not flagged to go"


@pytest.fixture
def photo_audit(photos, tmp_path):
    """Photos with noise that was put on their labels, audited."""
    data = NoisyImageDataModule(str(photos), noise="pair:0.3", val_fraction=0.0)
    return audit_of(tmp_path / "audit", data)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_a_manifest_of_files_points_to_them_from_anywhere(suffix, photo_audit, photos, tmp_path, monkeypatch):
    before = hashes(photos)
    output = tmp_path / "elsewhere" / f"clean{suffix}"
    photo_audit.apply("relabel", output)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    data = NoisyImageDataModule(str(output), id_column="id", val_fraction=0.0)
    for row, name in enumerate(data.splits["train"].ids.to_pylist()):
        assert data.class_names[data.splits["train"].noisy_labels[row]] == name.partition("/")[0]
        assert data.splits["train"].path(row) == str(photos / name)
    assert hashes(photos) == before
    assert [path.name for path in output.parent.iterdir()] == [output.name], "nothing else is left there"
    assert output.stat().st_mode & 0o777 == (photo_audit.directory / "summary.json").stat().st_mode & 0o777


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_hostile_names_survive(suffix, tmp_path):
    source = tmp_path / "source.parquet"
    for number in range(len(HOSTILE)):
        draw_image(number, number).save(tmp_path / f"{number}.png")
    paths = [f"{number}.png" for number in range(len(HOSTILE))]
    pq.write_table(pa.table({"path": paths, "label": HOSTILE, "name": HOSTILE}), source)
    data = NoisyImageDataModule(str(source), id_column="name", val_fraction=0.0)
    images = data.splits["train"]
    audit = make_audit(
        tmp_path / "audit",
        data.splits,
        {"train": images.noisy_labels},
        {"train": np.ones(len(images))},
    )
    audit.apply("relabel", tmp_path / f"clean{suffix}")
    again = NoisyImageDataModule(str(tmp_path / f"clean{suffix}"), id_column="id", val_fraction=0.0)
    assert again.class_names == data.class_names
    assert labelled(again, "train") == {name: (name, 1.0) for name in HOSTILE}


@pytest.mark.parametrize("names", [["00", "01"], ["2020-01-01", "2021-01-01"], ["true", "false"], ["1.5", "2"]])
def test_names_that_a_text_file_can_not_keep_are_refused(names, tmp_path):
    for name in names:
        (tmp_path / "photos" / name).mkdir(parents=True)
        draw_image(0, 0).save(tmp_path / "photos" / name / "a.png")
    data = NoisyImageDataModule(str(tmp_path / "photos"), noise="uniform:0.0", val_fraction=0.0)
    audit = audit_of(tmp_path / "audit", data)
    with pytest.raises(ValueError, match=r"`output` to end in .parquet, but got '.csv'.*read as something else"):
        audit.apply("relabel", tmp_path / "clean.csv")
    assert not (tmp_path / "clean.csv").exists()
    audit.apply("relabel", tmp_path / "clean.parquet")
    again = NoisyImageDataModule(str(tmp_path / "clean.parquet"), val_fraction=0.0)
    assert again.class_names == sorted(names)


def test_only_a_manifest_of_ours_is_replaced(photo_audit, photos, tmp_path):
    for suffix in (".parquet", ".csv", ".jsonl"):
        output = tmp_path / f"clean{suffix}"
        photo_audit.apply("weight", output)
        first = output.read_bytes()
        photo_audit.apply("relabel", output)
        assert output.read_bytes() != first
    foreign = {
        ".parquet": lambda path: pq.write_table(pa.table({"path": ["a"]}), path),
        ".csv": lambda path: path.write_text("path,label\na,b\n"),
        ".jsonl": lambda path: path.write_text(json.dumps({"path": "a", "label": "b"}) + "\n"),
    }
    for suffix, write in foreign.items():
        write(tmp_path / f"mine{suffix}")
    before = hashes(tmp_path)
    for suffix in foreign:
        with pytest.raises(ValueError, match=r"`output` to be a new file, but '.*mine.*' exists"):
            photo_audit.apply("weight", tmp_path / f"mine{suffix}")
    with pytest.raises(ValueError, match="`output` to be a new file"):
        photo_audit.apply("weight", photo_audit.directory / "audit.parquet")
    assert hashes(tmp_path) == before


def test_the_manifest_that_the_images_come_from_is_not_replaced(photo_audit, tmp_path, monkeypatch):
    photo_audit.apply("weight", tmp_path / "first.parquet")
    data = NoisyImageDataModule(str(tmp_path / "first.parquet"), val_fraction=0.0, clean_label_column="given_label")
    second = audit_of(tmp_path / "second", data)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="where the images of this audit come from"):
        second.apply("relabel", "first.parquet")
    second.apply("relabel", "other.parquet")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "foo"}, "`policy` to be 'drop', 'relabel' or 'weight', but got 'foo'"),
        ({"output": "clean.txt"}, "`output` to be a manifest ending in .parquet, .csv, .jsonl, but got 'clean.txt'"),
        ({"decided": {"nowhere.png": "keep"}}, "'nowhere.png' is not in this audit"),
        ({"decided": {"\ud800": "keep"}}, "got the id"),
        ({"decided": {"a": "keep"}, "audit_id": "another"}, "about this audit"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(options, message, photo_audit, tmp_path):
    options = dict(options)
    decided, audit_id = options.pop("decided", None), options.pop("audit_id", photo_audit.summary.audit_id)
    if decided is not None:
        path = write_decisions(tmp_path / "decisions.json", photo_audit, decided, audit_id=audit_id)
        options["decisions"] = path
    before = hashes(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        photo_audit.apply(**{"policy": "drop", "output": "clean.parquet", **options})
    assert "\n" not in str(error.value)
    assert hashes(tmp_path) == before


def test_a_class_that_would_lose_all_its_images_is_named(photo_audit, tmp_path):
    dropped = [row["id"] for row in photo_audit.table.to_pylist() if row["given_class"] == "bee"]
    decisions = write_decisions(tmp_path / "decisions.json", photo_audit, dict.fromkeys(dropped, "drop"))
    before = hashes(tmp_path)
    with pytest.raises(ValueError, match="'weight' would leave class 'bee' without an image for training"):
        photo_audit.apply("weight", tmp_path / "clean.parquet", decisions)
    assert hashes(tmp_path) == before


def test_images_that_are_gone_are_named_and_nothing_is_left(photo_audit, photos, tmp_path):
    last = photo_audit.table["path"][-1].as_py()
    (tmp_path / "kept.csv").write_text("mine")
    (photos / last).unlink()
    for suffix in (".parquet", ".csv", ".jsonl"):
        before = hashes(tmp_path)
        with pytest.raises(ValueError, match=re.escape(f"{last!r} is not there")):
            photo_audit.apply("relabel", tmp_path / f"clean{suffix}")
        assert hashes(tmp_path) == before


def test_without_a_name_it_lies_in_the_audits_folder(photo_audit):
    photo_audit.apply("relabel")
    assert len(NoisyImageDataModule(str(photo_audit.directory / "manifest.parquet")).splits["train"]) > 0


def test_an_audit_without_training_images_is_one_sentence(photos, tmp_path):
    splits = {"val": NoisyImageDataModule(str(photos)).splits["val"]}
    labels = {"val": splits["val"].noisy_labels}
    audit = make_audit(tmp_path / "audit", splits, labels, {"val": np.ones(len(labels["val"]))})
    with pytest.raises(ValueError, match="images for training to be left, but there are none among the 3 of"):
        audit.apply("relabel")


def test_images_without_a_file_need_parquet(digits, tmp_path):
    with pytest.raises(ValueError, match=r"got '.csv', which can't hold the images"):
        digits[1].apply("relabel", tmp_path / "clean.csv")


def test_neither_rows_nor_images_are_in_memory_together(digits, tmp_path, monkeypatch):
    sizes = []
    read = pq.ParquetFile.iter_batches

    def watched(self, *args, **options):
        for batch in read(self, *args, **options):
            sizes.append(len(batch))
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watched)
    report = digits[1].apply("relabel", tmp_path / "clean.parquet")
    groups = pq.ParquetFile(tmp_path / "clean.parquet").metadata
    assert max(groups.row_group(number).num_rows for number in range(groups.num_row_groups)) <= 256
    assert sum(sizes) == 2 * report.kept, "one pass to look, one to write"
    assert max(sizes[-5:]) <= 256


def test_the_report_is_shown(digits, tmp_path):
    report = digits[1].apply("weight", tmp_path / "clean.parquet")
    out = io.StringIO()
    show_report(Console(file=out, width=80), report)
    assert f"{report.kept:,}" in out.getvalue() and f"{report.mean_weight:.3f}" in out.getvalue()
    assert "kept for val" in out.getvalue()


def test_relabelling_takes_no_suggestion_that_is_less_probable_than_the_given_label(digits, tmp_path):
    audit = audit_of(tmp_path / "audit", digits[0])
    table = audit.table
    flagged = table["is_issue"].to_numpy()
    is_worse = flagged & (np.arange(len(table)) % 2 == 0)
    p_suggested = np.where(is_worse, table["p_given"].to_numpy() / 2, table["p_suggested"].to_numpy())
    place = table.column_names.index("p_suggested")
    changed = table.set_column(place, "p_suggested", pa.array(p_suggested, pa.float32()))
    pq.write_table(changed, audit.directory / "audit.parquet")
    report = write_manifest(audit, "relabel", tmp_path / "m.parquet")
    written = pq.read_table(tmp_path / "m.parquet")
    given, suggested = (table[name].to_numpy() for name in ("given_label", "suggested_label"))
    assert written["label"].to_pylist() == np.where(flagged & ~is_worse, suggested, given).tolist()
    assert report.relabelled == (flagged & ~is_worse).sum() > 0 and is_worse.sum() > 0
