"""Quality beside the formulas of CleanVision, written out, and on pictures that everyone would flag."""

import numpy as np
import pytest
from PIL import Image

from lightning_noisy.audit.issues.quality import THRESHOLDS, quality_flags, quality_scores

from .small import facts_of, pictures


def flagged(images):
    """The kinds of each image."""
    flags = quality_flags(quality_scores(facts_of(images)))
    return [{kind for kind in THRESHOLDS if flags[kind][row]} for row in range(len(images))]


def odd_ones():
    photo = pictures(1, side=64, seed=9)[0]
    return {
        "black": (Image.new("RGB", (64, 64)), {"dark", "low_information", "blurry"}),
        "white": (Image.new("RGB", (64, 64), "white"), {"light", "low_information", "blurry"}),
        "dark": (photo.point(lambda value: value // 5), {"dark"}),
        "panorama": (photo.resize((160, 26)), {"odd_aspect_ratio"}),
        "tiny": (photo.resize((12, 12)), {"odd_size"}),
        "huge": (photo.resize((640, 640)), {"odd_size", "blurry"}),
    }


def noisy_pictures(count):
    generator = np.random.default_rng(1)
    return [
        Image.fromarray((np.asarray(image) * 0.8 + generator.integers(0, 50, (64, 64, 3))).astype(np.uint8))
        for image in pictures(count, side=64)
    ]


def test_what_everyone_would_flag_is_flagged_and_nothing_else():
    normal = noisy_pictures(40)
    odd = odd_ones()
    found = flagged([*normal, *(image for image, _ in odd.values())])
    assert found[:40] == [set()] * 40
    for name, kinds in zip(odd, found[40:], strict=True):
        assert kinds >= odd[name][1] - {"blurry"}, name
        assert kinds <= odd[name][1] | {"blurry"}, name


def test_what_most_images_are_like_is_no_issue():
    drawings = []
    for number in range(20):  # white with a line, as drawings are
        pixels = np.full((50, 50, 3), 255, dtype=np.uint8)
        pixels[5 : 20 + number, number + 3] = 0
        drawings.append(Image.fromarray(pixels))
    found = flagged([*drawings, Image.new("RGB", (50, 50), "white")])
    assert found[:20] == [set()] * 20
    assert found[20] == {"low_information"}


def test_scores_are_those_of_the_formulas():
    facts = {
        "width": np.array([100, 100, 100, 100, 30]),
        "height": np.array([100, 100, 100, 50, 30]),
        "brightest": np.array([0.9, 0.2, 1.0, 1.0, 1.0]),
        "darkest": np.array([0.1, 0.0, 0.98, 0.2, 0.2]),
        "entropy": np.array([7.0, 12.0, 0.5, 5.0, 5.0]),
        "edges": np.array([50.0, 10.0, 10.0, 10.0, 0.0]),
        "histogram_spread": np.array([1.0, 1.0, 60.0, 20.0, 0.0]),
    }
    scores = quality_scores(facts)
    assert scores["dark"].tolist() == [0.9, 0.2, 1, 1, 1]
    assert scores["light"].tolist() == pytest.approx([0.9, 1, 0.02, 0.8, 0.8])
    assert scores["low_information"].tolist() == pytest.approx([0.7, 1, 0.05, 0.5, 0.5])
    assert scores["odd_aspect_ratio"].tolist() == [1, 1, 1, 0.5, 1]
    blur = [1 - np.exp(-0.5), 1 - np.exp(-0.1), 1 - np.exp(-0.1) + 1 - np.exp(-0.6), 2 - np.exp(-0.1) - np.exp(-0.2), 0]
    assert scores["blurry"].tolist() == pytest.approx(blur)  # exp(-.2) is .82: a spread of .181 counts
    middle, reach = np.log2(100) - 0.25, 3.5 * 0.5  # quartiles at half an octave below 100 pixels, and at 100
    distances = np.abs(np.log2([100, 100, 100, np.sqrt(5000), 30]) - middle)
    assert scores["odd_size"].tolist() == pytest.approx((1 - distances / (2 * reach)).tolist())
