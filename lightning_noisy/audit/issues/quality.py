"""Pictures that are poor in themselves: dark, light, blank, blurry, of an odd shape or size.

Source: the definitions and thresholds of CleanVision 0.3 (https://github.com/cleanlab/cleanvision), but for two things:
what half of the images are like is no issue, and sizes are compared on a logarithmic scale, so that tiny ones show too.
"""

import numpy as np

THRESHOLDS = {
    "low_information": 0.3,
    "dark": 0.32,
    "light": 0.05,
    "blurry": 0.29,
    "odd_aspect_ratio": 0.35,
    "odd_size": 0.5,
}
"""An image whose score is lower is an issue."""
SHARE_OF_MEDIAN = 0.5
"""Nor is an image an issue whose score is above this share of the median: drawings are all poor in information."""
SHARPNESS_FACTOR = 0.01
LEAST_SPREAD = 0.18
QUARTILE_RANGES = 3.0
LEAST_OCTAVES = 0.5
"""Sizes that differ by less from the middle one are not odd."""


def quality_scores(facts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """For each kind (N,) scores in [0, 1], the lower, the worse.

    Args:
        facts: Columns of :data:`~lightning_noisy.inference.facts.FACTS_SCHEMA`, (N,) each.
    """
    width, height = facts["width"].astype(np.float64), facts["height"].astype(np.float64)
    spread = 1 - np.exp(-SHARPNESS_FACTOR * facts["histogram_spread"])
    sharpness = 1 - np.exp(-SHARPNESS_FACTOR * facts["edges"]) + np.where(spread > LEAST_SPREAD, spread, 0)
    scores = {
        "low_information": 0.1 * facts["entropy"],
        "dark": facts["brightest"],
        "light": 1 - facts["darkest"],
        "blurry": sharpness,
        "odd_aspect_ratio": np.minimum(width / height, height / width),
        "odd_size": _size_scores(np.log2(width * height) / 2),
    }
    return {kind: np.clip(scores[kind], 0, 1) for kind in THRESHOLDS}


def quality_flags(scores: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """For each kind (N,) bool, whether an image is an issue.

    Args:
        scores: Of :func:`quality_scores`.
    """
    return {kind: values < _limit(kind, values) for kind, values in scores.items()}


def _limit(kind: str, scores: np.ndarray) -> float:
    if kind == "odd_size" or not len(scores):  # sizes are compared with each other already
        return THRESHOLDS[kind]
    return min(THRESHOLDS[kind], SHARE_OF_MEDIAN * float(np.median(scores)))


def _size_scores(octaves: np.ndarray) -> np.ndarray:
    """1 in the middle, .5 at three quartile ranges from the quartiles."""
    if not len(octaves):
        return octaves
    low, high = np.percentile(octaves, (25, 75))
    reach = max((0.5 + QUARTILE_RANGES) * (high - low), LEAST_OCTAVES)
    return 1 - np.abs(octaves - (low + high) / 2) / (2 * reach)
