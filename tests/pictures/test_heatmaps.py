import numpy as np
import pytest
import torch
from PIL import Image

from lightning_noisy.noise.synthetic import uniform_matrix
from lightning_noisy.pictures import draw_transition_matrices, transition_matrices_figure


@pytest.mark.parametrize("num_classes", [2, 10, 100, 300])
def test_a_picture_is_written_whose_width_grows_with_the_matrices(tmp_path, num_classes):
    names = [f"class ${label}$ with a rather long name" for label in range(num_classes)]
    matrix = uniform_matrix(num_classes, 0.4)
    draw_transition_matrices(tmp_path / "one.png", {"learned": matrix}, names, title="cost in $")
    draw_transition_matrices(tmp_path / "two.png", {"learned": matrix, "true": torch.eye(num_classes)}, names)
    one, two = (Image.open(tmp_path / name) for name in ("one.png", "two.png"))
    assert two.width > 1.4 * one.width
    assert len(np.unique(np.asarray(two.convert("L")))) > 20


def random_matrix(num_classes, seed=0):
    return torch.rand(num_classes, num_classes, generator=torch.Generator().manual_seed(seed)).softmax(dim=1)


def names_of(num_classes):
    return [f"c{label}" for label in range(num_classes)]


def test_a_small_matrix_is_shown_as_it_is():
    matrix = random_matrix(50)
    figure = transition_matrices_figure({"learned": matrix}, names_of(50))
    axes, bar = figure.axes
    assert np.array_equal(axes.images[0].get_array(), matrix.numpy())
    assert [label.get_text() for label in axes.get_yticklabels()] == names_of(50)
    assert (axes.get_xlabel(), axes.get_ylabel(), bar.get_ylabel()) == (
        "noisy label",
        "clean class",
        "P(noisy | clean)",
    )


def test_of_many_classes_the_most_confused_are_shown_and_named():
    """The pairs by sorting all of them in plain Python."""
    estimate, truth = random_matrix(60), random_matrix(60, seed=1)
    pairs = sorted(
        ((i, j) for i in range(60) for j in range(60) if i != j), key=lambda pair: -float(estimate[pair])
    )  # fmt: skip
    matrices = {"learned": random_matrix(60, seed=2), "counted": estimate, "true": truth}
    figure = transition_matrices_figure(matrices, names_of(60), "Noise")
    assert figure.get_suptitle() == "Noise: the 20 most confused of 60 classes"
    learned, counted, true, bars = (axes for axes in figure.axes if axes.get_title())
    shown = [int(label.get_text()[1:]) for label in counted.get_yticklabels()]
    assert len(set(shown)) == 20 and shown[:2] == list(pairs[0])
    assert set(shown) == set(list(dict.fromkeys(label for pair in pairs for label in pair))[:20])
    for axes, matrix in ((learned, matrices["learned"]), (counted, estimate), (true, truth)):
        assert np.array_equal(axes.images[0].get_array(), matrix.numpy()[np.ix_(shown, shown)])
    assert [label.get_text() for label in bars.get_yticklabels()] == [f"c{i} → c{j}" for i, j in pairs[:20]]
    assert [bar.get_width() for bar in bars.patches] == pytest.approx([float(estimate[pair]) for pair in pairs[:20]])
    assert list(bars.lines[0].get_xdata()) == pytest.approx([float(truth[pair]) for pair in pairs[:20]])


def test_many_classes_without_any_confusion():
    figure = transition_matrices_figure({"learned": torch.eye(51)}, names_of(51))
    assert not figure.axes[1].patches
    assert figure.get_suptitle() == "The 20 most confused of 51 classes"
