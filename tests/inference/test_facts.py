"""What a picture tells, beside formulas that are written out."""

import io

import numpy as np
import pytest
from PIL import Image

from lightning_noisy.inference.facts import image_facts


def picture(side=48, seed=0):
    """Smooth shapes, as photographs have them."""
    values = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((side, side), Image.Resampling.BICUBIC)


def as_jpeg(image, quality):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def correlation(one, other):
    return np.corrcoef(image_facts(one)["thumbnail"], image_facts(other)["thumbnail"])[0, 1]


def test_light_content_and_size_are_those_of_the_formulas():
    image = picture()
    facts = image_facts(image)
    pixels = np.asarray(image, dtype=np.float64)
    brightness = np.sqrt((pixels**2 * [0.241, 0.691, 0.068]).sum(axis=2)) / 255
    assert facts["brightest"] == pytest.approx(np.percentile(brightness, 99), abs=1e-6)
    assert facts["darkest"] == pytest.approx(np.percentile(brightness, 5), abs=1e-6)
    grey = np.asarray(image.convert("L"), dtype=np.float64)
    shares = np.bincount(grey.astype(int).ravel()) / grey.size
    shares = shares[shares > 0]
    assert facts["entropy"] == pytest.approx(-(shares * np.log2(shares)).sum(), rel=1e-6)
    inner = 8 * grey[1:-1, 1:-1] - sum(
        grey[1 + i : 47 + i, 1 + j : 47 + j] for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)
    )
    edges = grey.copy()  # the filter leaves the border as it is
    edges[1:-1, 1:-1] = inner.clip(0, 255)
    assert facts["edges"] == pytest.approx(edges.std(), rel=1e-5)
    assert facts["histogram_spread"] == pytest.approx(np.bincount(grey.astype(int).ravel(), minlength=256).std())
    assert (facts["width"], facts["height"]) == (48, 48)
    assert image_facts(image.resize((40, 20)))["height"] == 20


def test_the_same_picture_in_another_file_has_the_same_thumbnail_and_another_digest():
    image = picture()
    for changed in (as_jpeg(image, 40), image.resize((100, 70)), image.convert("L").convert("RGB")):
        assert correlation(image, changed) > 0.985
        assert image_facts(changed)["pixel_digest"] != image_facts(image)["pixel_digest"]
    assert correlation(image, picture(seed=1)) < 0.7
    assert image_facts(picture())["pixel_digest"] == image_facts(image)["pixel_digest"]
    turned = Image.frombytes("RGB", (24, 96), image.tobytes())  # the same bytes are another picture
    assert image_facts(turned)["pixel_digest"] != image_facts(image)["pixel_digest"]


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (3000, 2), (5000, 5000)])
def test_pictures_of_any_size_have_facts(size):
    facts = image_facts(Image.new("RGB", size, "white"))
    assert facts["thumbnail"].shape == (256,)
    assert facts["entropy"] == 0
    assert facts["darkest"] == pytest.approx(1, abs=1e-3)
