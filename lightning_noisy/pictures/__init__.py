"""Pictures for people, legible to the colour-blind too: matrices, the course of a training, posteriors."""

from lightning_noisy.pictures.curves import draw_training_curves, training_curves_figure
from lightning_noisy.pictures.heatmaps import (
    draw_transition_matrices,
    transition_matrices_figure,
    transition_matrices_pixels,
)
from lightning_noisy.pictures.histograms import draw_posterior_histogram, posterior_histogram_figure
from lightning_noisy.pictures.style import pixels

__all__ = [
    "draw_posterior_histogram",
    "draw_training_curves",
    "draw_transition_matrices",
    "pixels",
    "posterior_histogram_figure",
    "training_curves_figure",
    "transition_matrices_figure",
    "transition_matrices_pixels",
]
