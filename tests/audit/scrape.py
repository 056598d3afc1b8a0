"""A small scrape on disk, as scrapes are: three colours of shapes, copies under other labels and in other splits."""

import csv

import numpy as np
from PIL import Image

from lightning_noisy import NoisyImageDataModule

COLOURS = {"red": (230, 40, 30), "green": (30, 200, 50), "blue": (40, 60, 230)}
IMAGES = 30
"""Of each class."""


def shape(colour, seed, side=32):
    """A patchy picture in shades of one colour."""
    shades = np.random.default_rng(seed).uniform(0.35, 1.0, (5, 5, 1))
    patches = (shades * np.array(COLOURS[colour])).astype(np.uint8)
    return Image.fromarray(patches).resize((side, side), Image.Resampling.BICUBIC)


def write_scrape(folder, extra=()):
    """Images and ``scrape.csv``; ``extra`` are more rows of ``(name, image, label, split)``; gives the data module."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, colour in enumerate(COLOURS):
        for i in range(IMAGES):
            split = ("train", "train", "train", "train", "val", "test")[i % 6]
            rows.append((f"{colour}{i}.png", shape(colour, 1000 * number + i), colour, split))
    with open(folder / "scrape.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        for name, image, label, split in [*rows, *extra]:
            image.save(folder / name)
            writer.writerow([name, label, split])
    return scrape_data(folder / "scrape.csv")


def scrape_data(manifest, **options):
    return NoisyImageDataModule(str(manifest), image_size=16, batch_size=32, num_workers=0, **options)
