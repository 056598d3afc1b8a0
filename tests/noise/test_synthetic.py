import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_noisy.noise.matrix import write_transition_matrix
from lightning_noisy.noise.synthetic import (
    corrupt_labels,
    nonuniform_matrix,
    pair_matrix,
    transition_matrix_from_spec,
    uniform_matrix,
)

LEVELS = st.just(0.0) | st.floats(1e-6, 1)
CLASSES = st.integers(2, 40)


@given(CLASSES, LEVELS)
def test_uniform_flips_the_papers_share(num_classes, level):
    matrix = uniform_matrix(num_classes, level).numpy()
    np.testing.assert_allclose(matrix.sum(1), 1)
    np.testing.assert_allclose(1 - np.diag(matrix), level * (num_classes - 1) / num_classes, atol=1e-12)


@given(CLASSES, LEVELS, st.integers(0, 100))
@settings(deadline=None)
def test_nonuniform_keeps_its_diagonal_and_its_row_sums(num_classes, level, seed):
    matrix = nonuniform_matrix(num_classes, level, seed).numpy()
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-9)
    np.testing.assert_allclose(np.diag(matrix), 1 - level, atol=1e-12)
    assert matrix.min() >= 0


@pytest.mark.parametrize("level", [0.3, 0.5, 0.7])
def test_nonuniform_entries_lie_where_the_authors_have_them(level):
    off_diagonal = nonuniform_matrix(10, level, seed=3).numpy()[~np.eye(10, dtype=bool)]
    assert 0.002 <= off_diagonal.min() < off_diagonal.max() <= 0.1
    assert off_diagonal.std() > 0.005


def test_pair_sends_each_class_to_the_next():
    matrix = pair_matrix(3, 0.4)
    expected = torch.tensor([[0.6, 0.4, 0], [0, 0.6, 0.4], [0.4, 0, 0.6]], dtype=torch.float64)
    assert torch.allclose(matrix, expected)


@pytest.mark.parametrize("spec", ["uniform:0.5", "nonuniform:0.4", "pair:0.2"])
def test_drawn_labels_follow_the_matrix(spec):
    matrix = transition_matrix_from_spec(spec, 5, seed=1).numpy()
    labels = np.repeat(np.arange(5), 40_000)
    noisy = corrupt_labels(labels, torch.from_numpy(matrix), seed=2)
    counted = np.stack([np.bincount(noisy[labels == label], minlength=5) for label in range(5)]) / 40_000
    standard_error = np.sqrt(matrix * (1 - matrix) / 40_000)
    assert (np.abs(counted - matrix) <= 5 * standard_error + 1e-12).all()


def test_a_seed_gives_the_same_labels_and_another_seed_others():
    labels = np.arange(1000) % 10
    first, again, other = (corrupt_labels(labels, uniform_matrix(10, 0.5), seed) for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()
    assert (corrupt_labels(labels, torch.eye(10), 0) == labels).all()


def test_a_matrix_is_read_from_a_file_with_and_without_names(tmp_path):
    matrix = nonuniform_matrix(4, 0.5, seed=0)
    write_transition_matrix(tmp_path / "named.csv", matrix, ["a", "b, c", 'd "e"', "f"])
    np.savetxt(tmp_path / "plain.csv", matrix.numpy(), delimiter=",")
    for name in ("named.csv", "plain.csv"):
        read = transition_matrix_from_spec(f"matrix:{tmp_path / name}", 4, seed=0)
        assert torch.allclose(read, matrix, atol=1e-8)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("unifrom:0.4", r"`noise`.*'unifrom:0.4'.*Did you mean `uniform`"),
        ("uniform", r"`noise` to end in a level.*'uniform'"),
        ("uniform:40", r"\[0,1\] range.*'uniform:40'"),
        ("pair:-0.1", r"\[0,1\] range"),
        ("matrix:none.csv", "no file 'none.csv'"),
    ],
)
def test_a_wrong_text_is_named(spec, message):
    with pytest.raises(ValueError, match=message):
        transition_matrix_from_spec(spec, 10, seed=0)


def test_a_matrix_file_of_another_size_or_without_numbers_is_named(tmp_path):
    np.savetxt(tmp_path / "three.csv", np.eye(3), delimiter=",")
    with pytest.raises(ValueError, match=r"three\.csv.*one row for each of the 4 classes"):
        transition_matrix_from_spec(f"matrix:{tmp_path / 'three.csv'}", 4, seed=0)
    (tmp_path / "words.csv").write_text("a,b\nc,d\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"words\.csv.*holds no transition matrix"):
        transition_matrix_from_spec(f"matrix:{tmp_path / 'words.csv'}", 2, seed=0)
