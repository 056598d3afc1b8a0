"""Images that belong to no class, mixed into others."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from auditing.frozen import BACKBONES, frozen_features
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits, load_sample_images
from torch import Tensor

SIDE = 96
EACH = 400
"""Images of a sort."""
FEW = 10
HELD_OUT = {"two animals": (3, 8), "a plane and a dog": (0, 5)}


def _digits(generator: np.random.Generator) -> list[Image.Image]:
    values = generator.permutation(load_digits().images)[:EACH]
    return [Image.fromarray((16 * each).clip(0, 255).astype(np.uint8)) for each in values]


def _textures(generator: np.random.Generator) -> list[Image.Image]:
    """Stripes, checks, clouds and rings in two colours each."""
    y, x = np.mgrid[:32, :32] / 32
    found = []
    for number in range(EACH):
        angle, frequency = generator.uniform(0, np.pi), 2 * np.pi * generator.uniform(2, 12)
        if number % 4 == 0:
            wave = np.sin(frequency * (x * np.cos(angle) + y * np.sin(angle)))
        elif number % 4 == 1:
            wave = np.sign(np.sin(frequency * x + angle) * np.sin(frequency * y))
        elif number % 4 == 2:
            patches = (generator.normal(size=(side, side)).astype(np.float32) for side in (4, 8, 16))
            wave = sum(np.asarray(Image.fromarray(each).resize((32, 32), Image.Resampling.BICUBIC)) for each in patches)
        else:
            wave = np.sin(frequency * np.hypot(x - generator.uniform(), y - generator.uniform()))
        share = ((wave + 1) / 2).clip(0, 1)[..., None]
        one, other = generator.uniform(0, 255, (2, 3))
        pixels = one * share + other * (1 - share) + generator.normal(0, 8, (32, 32, 3))
        found.append(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))
    return found


def _noise(generator: np.random.Generator) -> list[Image.Image]:
    """Every second evenly spread, the others normal."""
    found = []
    for number in range(EACH):
        even, normal = (
            generator.integers(0, 256, (32, 32, 3)),
            generator.normal(128, generator.uniform(10, 60), (32, 32, 3)),
        )
        found.append(Image.fromarray((even if number % 2 else normal.clip(0, 255)).astype(np.uint8)))
    return found


def _patches(generator: np.random.Generator) -> list[Image.Image]:
    """Patches of two photographs, a temple and a flower."""
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    found = []
    for number in range(EACH):
        photograph, side = photographs[number % 2], int(generator.integers(40, 120))
        left, top = (int(generator.integers(0, most - side)) for most in photograph.size)
        found.append(photograph.crop((left, top, left + side, top + side)).resize((32, 32), Image.Resampling.BICUBIC))
    return found


DRAWN: dict[str, Callable[[np.random.Generator], list[Image.Image]]] = {
    "digits": _digits,
    "textures": _textures,
    "noise": _noise,
    "patches of two photographs": _patches,
}


@cache
def strangers(sort: str, backbone: str, data_dir: Path, seed: int) -> Tensor:
    """(M, D) float16, what the backbone sees of images of a sort; kept beside the data."""
    if sort in ("mnist", "cifar10n"):
        return frozen_features(sort, backbone, data_dir, 5 + seed, EACH)[0]
    path = data_dir / f"strangers_{sort.replace(' ', '_')}_{backbone}_{seed}.safetensors"
    if not path.is_file():
        images = DRAWN[sort](np.random.default_rng(seed))
        pixels = np.stack(
            [np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for image in images]
        )
        model = BACKBONES[backbone](data_dir)
        with torch.inference_mode():
            batches = torch.from_numpy(pixels).permute(0, 3, 1, 2).split(200)
            found = torch.cat([model(batch / 127.5 - 1).half() for batch in batches])
        save_file({"features": found}, path)
    return load_file(path)["features"]
