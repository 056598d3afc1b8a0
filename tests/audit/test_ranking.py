"""The ranking of parts, against numpy's sort."""

import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_noisy.audit.ranking import agreement, label_sums, write_ranking
from lightning_noisy.audit.run import AUDIT_FILES
from lightning_noisy.audit.schema import AUDIT_FILE, PART_SCHEMA
from lightning_noisy.audit.summary import Agreement, LabelSums, Share, summarise
from lightning_noisy.inference import parts

NAMES = ["ant", "=bee()", "cat"]


def write_parts(directory, p_given, order, cuts):
    """The rows in some order, cut into parts of several processes."""
    generator = np.random.default_rng(0)
    rows = len(p_given)
    labels = generator.integers(0, 3, (2, rows))
    parts.begin(directory, "a", True, AUDIT_FILES)
    for rank, positions in enumerate(np.split(order, cuts)):
        writer = parts.PartWriter(directory, PART_SCHEMA, rank)
        if len(positions):
            writer.add(
                {
                    "position": positions,
                    "id": [f"{position}.jpg" for position in positions],
                    "path": [None] * len(positions),
                    "split": ["train"] * len(positions),
                    "row": positions,
                    "given_label": labels[0, positions],
                    "suggested_label": labels[1, positions],
                    "p_given": p_given[positions],
                    "p_suggested": 1 - p_given[positions],
                    "clean_probability": p_given[positions],
                    "is_issue": labels[0, positions] != labels[1, positions],
                    "predicted_label": labels[1, positions],
                }
            )
        writer.flush()
    return labels


@given(
    p_given=st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]) | st.floats(0, 1, width=32), min_size=1, max_size=60),
    seed=st.integers(0, 100),
    cuts=st.lists(st.integers(0, 60), max_size=3),
)
@settings(max_examples=25, deadline=None)
def test_the_least_likely_given_label_comes_first_and_ties_keep_their_order(tmp_path_factory, p_given, seed, cuts):
    directory = tmp_path_factory.mktemp("audit")
    p_given = np.array(p_given, dtype=np.float32)
    order = np.random.default_rng(seed).permutation(len(p_given))
    labels = write_parts(directory, p_given, order, sorted(min(cut, len(p_given)) for cut in cuts))
    write_ranking(directory, NAMES, len(p_given), with_probabilities=False)
    table = pyarrow.parquet.read_table(directory / AUDIT_FILE, partitioning=None)
    expected = np.argsort(p_given, kind="stable")
    assert table["row"].to_pylist() == expected.tolist()
    assert table["rank"].to_pylist() == list(range(1, len(p_given) + 1))
    assert table["given_class"].to_pylist() == [NAMES[label] for label in labels[0, expected]]
    assert table["suggested_class"].to_pylist() == [NAMES[label] for label in labels[1, expected]]
    sums = label_sums(directory, 3)
    flagged, likeliest = np.zeros((2, 3, 3), dtype=int)
    for given_label, suggested, p in zip(*labels, p_given.astype(float), strict=True):
        flagged[suggested, given_label] += given_label != suggested
        likeliest[suggested if 1 - p > p else given_label, given_label] += 1
    np.testing.assert_array_equal(sums.flagged, flagged)
    np.testing.assert_array_equal(sums.likeliest, likeliest)
    doubts = [(1 - p_given[labels[0] == label].astype(float)).sum() for label in range(3)]
    np.testing.assert_allclose(sums.doubts, doubts, atol=1e-9)


def test_missing_rows_and_rows_that_are_there_twice_are_told(tmp_path):
    write_parts(tmp_path, np.linspace(0, 1, 10, dtype=np.float32), np.arange(10), [5])
    with pytest.raises(ValueError, match="each of 11 images once, but they hold 10 rows of 10 images"):
        write_ranking(tmp_path, NAMES, 11, with_probabilities=False)
    first = sorted((tmp_path / parts.PARTS_FOLDER).glob(parts.PATTERN))[0]
    (first.parent / "rows-00009-000000000000-000000000004.parquet").write_bytes(first.read_bytes())
    with pytest.raises(ValueError, match="hold 15 rows of 10 images"):
        write_ranking(tmp_path, NAMES, 10, with_probabilities=False)
    assert not (tmp_path / AUDIT_FILE).exists()


@pytest.mark.parametrize("name", ["it's", "a[1]", "a[1]*", "100%?", "{x}", "é\u202e", "a\nb", "id=5"])
def test_the_folder_may_have_any_name(tmp_path, name):
    write_parts(tmp_path / name, np.linspace(0, 1, 10, dtype=np.float32), np.arange(10), [5])
    write_ranking(tmp_path / name, NAMES, 10, with_probabilities=False)
    assert label_sums(tmp_path / name, 3).likeliest.sum() == 10
    assert len(pyarrow.parquet.read_table(tmp_path / name / AUDIT_FILE, partitioning=None)) == 10


def test_a_part_that_was_not_finished_counts_nothing(tmp_path):
    write_parts(tmp_path, np.linspace(0, 1, 10, dtype=np.float32), np.arange(10), [])
    (tmp_path / parts.PARTS_FOLDER / ".rows-00000-1-2.parquet.77.part").write_bytes(b"PAR1")
    assert parts.positions_done(tmp_path, 10).all()
    parts.begin(tmp_path, "a", True, AUDIT_FILES)
    assert not list((tmp_path / parts.PARTS_FOLDER).glob(".*.part"))
    parts.begin(tmp_path, "another", True, AUDIT_FILES)
    assert not parts.positions_done(tmp_path, 10).any()


@pytest.mark.parametrize(("share", "images", "is_told"), [(0.12, 1000, True), (0.5, 1000, False), (0.5, 3, True)])
def test_a_judge_hardly_above_chance_is_told(share, images, is_told):
    assert Agreement(share, 0.1, images, True).is_hardly_above_chance == is_told


def test_agreement_is_that_of_held_out_images_where_there_are_any(tmp_path):
    predicted = np.array([0, 0, 1, 1, 2, 2])
    given = np.array([0, 1, 1, 0, 2, 2])
    columns = {
        "position": np.arange(6), "id": list("abcdef"), "path": [None] * 6, "row": np.arange(6),
        "split": ["train"] * 4 + ["val"] * 2, "given_label": given, "suggested_label": given,
        "p_given": np.full(6, 0.5), "p_suggested": np.full(6, 0.5), "clean_probability": np.full(6, 0.5),
        "is_issue": [False] * 6, "predicted_label": predicted,
    }  # fmt: skip
    parts.begin(tmp_path, "a", True, AUDIT_FILES)
    writer = parts.PartWriter(tmp_path, PART_SCHEMA)
    writer.add(columns)
    writer.flush()
    assert agreement(tmp_path, 3, is_out_of_sample=False) == Agreement(1.0, 1.0, 2, True)
    assert agreement(tmp_path, 3, is_out_of_sample=True) == Agreement(4 / 6, 2 / 6, 6, True)


def test_the_classes_agree_with_a_share_that_is_known_better():
    likeliest = np.array([[50, 10], [10, 30]])
    doubts = np.array([12.0, 20.0])
    better = Share(0.4, 0.3, 0.5)
    summary = summarise(LabelSums(likeliest, likeliest, doubts, doubts), ["ant", "bee"], "an audit", better)
    images = np.array([60, 40])
    values = np.array([each.errors.value for each in summary.classes])
    assert values == pytest.approx([0.4 / 0.32 * 12 / 60, 0.4 / 0.32 * 20 / 40])
    assert (values * images).sum() / 100 == pytest.approx(0.4)
    assert all(each.errors.low <= each.errors.value <= each.errors.high for each in summary.classes)
