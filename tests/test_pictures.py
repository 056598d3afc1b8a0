import numpy as np
import pytest
import torch
from PIL import Image

from lightning_noisy.noise.synthetic import uniform_matrix
from lightning_noisy.pictures import draw_transition_matrices


@pytest.mark.parametrize("num_classes", [2, 10, 100, 300])
def test_a_picture_is_written_whose_width_grows_with_the_matrices(tmp_path, num_classes):
    names = [f"class ${label}$ with a rather long name" for label in range(num_classes)]
    matrix = uniform_matrix(num_classes, 0.4)
    draw_transition_matrices(tmp_path / "one.png", {"learned": matrix}, names, title="cost in $")
    draw_transition_matrices(tmp_path / "two.png", {"learned": matrix, "true": torch.eye(num_classes)}, names)
    one, two = (Image.open(tmp_path / name) for name in ("one.png", "two.png"))
    assert two.width > 1.5 * one.width
    assert len(np.unique(np.asarray(two.convert("L")))) > 20
