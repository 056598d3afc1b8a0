import numpy as np
from PIL import Image

from lightning_noisy.pictures import draw_posterior_histogram, posterior_histogram_figure


def test_bars_are_the_counts_the_flagged_on_top(tmp_path):
    kept, flagged = np.array([0, 0, 2, 9000]), np.array([30, 1, 0, 0])
    axes = posterior_histogram_figure(kept, flagged, "about $").axes[0]
    below, above = axes.containers
    assert [bar.get_height() for bar in below] == kept.tolist()
    assert [bar.get_height() for bar in above] == flagged.tolist()
    assert [bar.get_y() for bar in above] == kept.tolist()
    assert [bar.get_x() for bar in below] == [0, 0.25, 0.5, 0.75]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["kept (9,002)", "flagged as wrong (31)"]
    assert axes.get_xlabel() and axes.get_ylabel() and axes.get_title() == r"about \$"
    draw_posterior_histogram(tmp_path / "x.png", kept, flagged)
    assert Image.open(tmp_path / "x.png").height > 300


def test_no_images_are_no_error():
    (axes,) = posterior_histogram_figure(np.zeros(3), np.zeros(3)).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["kept (0)", "flagged as wrong (0)"]
