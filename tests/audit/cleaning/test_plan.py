"""What becomes of images with other issues than wrong labels."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from lightning_noisy import NoisyImageDataModule
from lightning_noisy.audit.cleaning.plan import check_kinds
from lightning_noisy.audit.schema import AUDIT_FILE

from ..made import audit_of, labelled, mark, write_decisions


@pytest.fixture
def data():
    return NoisyImageDataModule("digits", noise="uniform:0.3", val_fraction=0.2, seed=3)


@pytest.fixture
def audit(data, tmp_path):
    return audit_of(tmp_path / "audit", data, row_group_size=100)


def rows_of(audit, split, is_issue=False):
    rows = [row for row in audit.table.to_pylist() if row["split"] == split and row["is_issue"] == is_issue]
    return [row["id"] for row in rows]


def group(*names, splits="train", number=0):
    return {"near_duplicate_group": dict.fromkeys(names, number), "near_duplicate_splits": dict.fromkeys(names, splits)}


def applied(audit, tmp_path, policy="relabel", **options):
    """The report, and label and weight of each image that is left, by split."""
    report = audit.apply(policy, tmp_path / "clean.parquet", **options)
    again = NoisyImageDataModule(str(tmp_path / "clean.parquet"), id_column="id")
    return report, {split: labelled(again, split) for split in again.splits}


def test_of_one_picture_the_best_copy_is_kept(audit, tmp_path):
    copies = [*rows_of(audit, "train", is_issue=True)[:2], *rows_of(audit, "train")[:3]]
    mark(audit, group(*copies))
    report, left = applied(audit, tmp_path)
    p_given = dict(zip(audit.table["id"].to_pylist(), audit.table["p_given"].to_pylist(), strict=True))
    assert [name for name in copies if name in left["train"]] == [max(copies, key=p_given.get)]
    assert report.reasons == {"near_duplicate": 4}
    assert (report.dropped, report.kept) == (4, len(audit.table) - 4)
    report, left = applied(audit, tmp_path, kinds=["label_issue"])
    assert set(copies) <= set(left["train"])
    assert report.reasons == {}


def test_what_people_keep_is_kept_and_what_they_drop_is_no_copy(audit, tmp_path):
    one, two, three, four = rows_of(audit, "train")[:4]
    mark(audit, group(one, two, three, four))
    path = write_decisions(tmp_path / "decisions.json", audit, {one: "keep", two: "keep", three: "drop"})
    report, left = applied(audit, tmp_path, decisions=path)
    assert {one, two} <= set(left["train"]) and not {three, four} & set(left["train"])
    assert report.reasons == {"decision": 1, "near_duplicate": 1}
    path = write_decisions(tmp_path / "decisions.json", audit, {one: "drop", two: "drop", three: "drop"})
    assert four in applied(audit, tmp_path, decisions=path)[1]["train"]


@pytest.mark.parametrize("policy", ["drop", "relabel", "weight"])
def test_a_picture_is_in_one_split_alone(policy, audit, tmp_path):
    train, val = rows_of(audit, "train"), rows_of(audit, "val")
    columns = group(train[0], train[1], val[0], val[1], splits="train, val")
    for number, names, splits in ((1, [train[2]], "train, test"), (2, [train[3], val[2]], "train, val, test")):
        for name, values in group(*names, splits=splits, number=number).items():
            columns[name] |= values
    mark(audit, columns)
    report, left = applied(audit, tmp_path, policy)
    assert not {*train[:4]} & set(left["train"])
    assert len({val[0], val[1]} & set(left["val"])) == 1
    assert val[2] not in left["val"]
    assert report.reasons["leak"] == 5
    assert report.reasons["near_duplicate"] == 1
    path = write_decisions(tmp_path / "decisions.json", audit, {val[0]: "drop", val[1]: "drop", train[2]: "keep"})
    _, left = applied(audit, tmp_path, policy, decisions=path)
    assert len({train[0], train[1]} & set(left["train"])) == 1  # the picture is in no other split any more
    assert train[2] not in left["train"]  # nobody has said anything of the test image


def test_an_image_that_shows_no_class_never_gets_one(audit, tmp_path):
    strangers = rows_of(audit, "train", is_issue=True)[:3]
    mark(audit, {"is_outlier": dict.fromkeys(strangers, True)})
    report, left = applied(audit, tmp_path)
    assert not set(strangers) & set(left["train"])
    assert report.reasons == {"outlier": 3}
    _, left = applied(audit, tmp_path, kinds=["label_issue"])
    given = dict(zip(audit.table["id"].to_pylist(), audit.table["given_class"].to_pylist(), strict=True))
    assert {name: left["train"][name][0] for name in strangers} == {name: given[name] for name in strangers}
    path = write_decisions(tmp_path / "decisions.json", audit, {strangers[0]: "accept", strangers[1]: "keep"})
    _, left = applied(audit, tmp_path, decisions=path)
    assert [name in left["train"] for name in strangers] == [True, True, False]


def test_only_the_kinds_that_are_named_are_cleaned(audit, tmp_path):
    dark, blank = rows_of(audit, "train")[:2]
    mark(audit, {"is_dark": {dark: True}, "is_low_information": {blank: True}})
    assert applied(audit, tmp_path)[0].reasons == {"low_information": 1}
    assert applied(audit, tmp_path, kinds=["dark"])[0].reasons == {"dark": 1}
    report, left = applied(audit, tmp_path, "drop", kinds=["dark"])
    assert set(rows_of(audit, "train", is_issue=True)) <= set(left["train"])
    report, _ = applied(audit, tmp_path, "drop")
    assert report.reasons["label_issue"] == report.dropped - 1 == np.count_nonzero(audit.table["is_issue"].to_numpy())


def test_unknown_kinds_and_nothing_left_are_one_sentence(audit, tmp_path):
    with pytest.raises(ValueError, match=r"`kinds` to be a list of 'label_issue', .* but got 'stranger'"):
        audit.apply("relabel", tmp_path / "clean.parquet", kinds=["outlier", "stranger"])
    with pytest.raises(ValueError, match="`kinds` to be a list"):
        check_kinds("outlier")
    train = rows_of(audit, "train") + rows_of(audit, "train", is_issue=True)
    mark(audit, group(*train, splits="train, test"))
    with pytest.raises(ValueError, match=r"none among the 1300 of .* left out because their pictures are in a later"):
        audit.apply("relabel", tmp_path / "clean.parquet")


def test_an_audit_without_these_columns_is_cleaned_of_wrong_labels(audit, tmp_path):
    table = pq.read_table(audit.directory / AUDIT_FILE)
    last = table.column_names.index("rank")
    pq.write_table(table.select(table.column_names[: last + 1]), audit.directory / AUDIT_FILE)
    report, _ = applied(audit, tmp_path)
    assert report.dropped == 0 < report.relabelled
