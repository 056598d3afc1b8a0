"""Tiny real images for the tests."""

from pathlib import Path

import numpy as np
from PIL import Image


def draw_image(label: int, seed: int, side: int = 16) -> Image.Image:
    """A noisy square whose colour and place tell its class."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 80, size=(side, side, 3))
    third = side // 3
    start = third * (label % 3)
    pixels[start : start + third, :, label % 3] += 150
    return Image.fromarray(pixels.astype(np.uint8))


def write_photos(root: Path) -> Path:
    """Three class folders of twelve images each."""
    for label, name in enumerate(("ant", "bee", "cat")):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(12):
            draw_image(label, seed=100 * label + number).save(root / name / f"{number:02}.png")
    return root
