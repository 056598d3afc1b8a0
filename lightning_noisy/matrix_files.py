"""The matrices of a training as files: CSV for machines, one picture for people."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from lightning_noisy.noise.matrix import write_transition_matrix
from lightning_noisy.pictures import draw_transition_matrices

MATRIX_FILE = "transition_matrix.csv"
"""What the noise layer holds."""
COUNTS_FILE = "label_counts.csv"
"""How often each predicted class carries each label, each row as shares: the better estimate."""
PICTURE_FILE = "transition_matrix.png"
LEARNED = "learned by the noise layer"
COUNTED = "counted: predicted class → given label"
FILES = {LEARNED: MATRIX_FILE, COUNTED: COUNTS_FILE}


def write_matrices(
    directory: Path, matrices: Mapping[str, Tensor], class_names: Sequence[str], title: str, picture: str = PICTURE_FILE
) -> list[Path]:
    """Writes the learned and the counted matrix as CSV, and a picture of all of them.

    Args:
        directory: Where to.
        matrices: By :data:`LEARNED`, :data:`COUNTED` or another heading, (K, K) each; without any nothing is written.
        class_names: The K names.
        title: Of the picture.
        picture: Its file.

    Returns:
        The files.
    """
    files = []
    for heading, matrix in matrices.items():
        if heading in FILES:
            files.append(directory / FILES[heading])
            write_transition_matrix(files[-1], matrix, class_names)
    if matrices:
        files.append(directory / picture)
        draw_transition_matrices(files[-1], matrices, class_names, title)
    return files
