"""What all pictures share."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, BLACK = "#0072B2", "#D55E00", "#009E73", "#000000"
"""Of Okabe and Ito's palette, which the colour-blind can tell apart (https://jfly.uni-koeln.de/color/)."""
DPI = 120


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, sizes in inches, that needs no screen."""
    figure = Figure(figsize=(width, height), layout="constrained", dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def pixels(figure: Figure) -> np.ndarray:
    """(H, W, 3) uint8."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def as_text(text: str, longest: int | None = None) -> str:
    """A text of the user's: a dollar sign would start a formula, and a line break another line.

    Args:
        text: The text.
        longest: Characters; longer ones are cut.
    """
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    if longest is not None and len(line) > longest:
        line = line[: longest - 1] + "…"
    return line.replace("$", r"\$")
