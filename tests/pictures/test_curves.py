import math

import pytest
from PIL import Image

from lightning_noisy.pictures import draw_training_curves, pixels, training_curves_figure

HISTORY = [
    {"epoch": 0.5, "val/accuracy_clean": 0.5, "val/accuracy_noisy": 0.4},
    {"epoch": 1.0, "val/accuracy_clean": 0.7, "val/accuracy_noisy": 0.45, "noise/share": 0.0, "train/loss_clean": 2.0},
    {"epoch": 2.0, "val/accuracy_noisy": 0.5, "noise/share": 0.25, "train/loss_clean": 1.0, "noise/trace": 3.0},
]


def drawn(figure):
    """``{panel: {label: (epochs, values)}}``, read back from the axes."""
    return {
        axes.get_title(): {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}
        for axes in figure.axes
    }


def test_each_metric_is_a_line_through_the_epochs_in_which_it_was_measured():
    figure = training_curves_figure(HISTORY, "A $title$")
    assert drawn(figure) == {
        "Accuracy": {
            "held out, checked labels": ([0.5, 1.0], [0.5, 0.7]),
            "held out, given labels": ([0.5, 1.0, 2.0], [0.4, 0.45, 0.5]),
        },
        "Loss": {"training, given labels": ([1.0, 2.0], [2.0, 1.0])},
        "Noise": {"the layer's share of the loss": ([1.0, 2.0], [0.0, 0.25])},
    }
    assert figure.get_suptitle() == r"A \$title\$"
    assert all(axes.get_xlabel() == "epochs done" for axes in figure.axes)
    assert [axes.get_ylabel() for axes in figure.axes] == ["right predictions (%)", "cross-entropy (nats)", "share (%)"]
    assert pixels(figure).shape[2] == 3


def test_lines_differ_in_colour_or_in_style():
    figure = training_curves_figure([{"epoch": 1, f"{s}/accuracy_{k}": 0.5} for s in ("val", "train")
                                     for k in ("clean", "noisy")])  # fmt: skip
    looks = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(looks) == len(figure.axes[0].lines) == 4


def test_the_names_of_transformers_are_known():
    history = [{"epoch": 1.0, "loss": 2.0, "eval_loss": 1.5, "eval_accuracy_noisy": 0.5, "noise/share": 0.5}]
    assert {panel: len(lines) for panel, lines in drawn(training_curves_figure(history)).items()} == {
        "Accuracy": 1,
        "Loss": 2,
        "Noise": 1,
    }


@pytest.mark.parametrize("history", [[], [{"epoch": 1.0, "lr-AdamW": 0.1}]])
def test_without_curves_there_is_no_picture(history, tmp_path):
    assert not draw_training_curves(tmp_path / "x.png", history)
    assert not (tmp_path / "x.png").exists()


def test_a_single_epoch_is_seen(tmp_path):
    assert draw_training_curves(tmp_path / "x.png", HISTORY[1:2])
    assert Image.open(tmp_path / "x.png").width > 1000
    line = training_curves_figure(HISTORY[1:2]).axes[0].lines[0]
    assert line.get_marker() == "o" and math.isclose(line.get_ydata()[0], 0.7)
