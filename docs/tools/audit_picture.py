"""Takes the README's picture of an audit's page: handwritten digits, and what is wrong with a scrape of them.

python docs/tools/audit_picture.py    (docs/audit_report.png; needs Chromium)

A fifth of the training labels are drawn anew, some pictures are there twice, under other labels or in the test images
too, some are patterns rather than digits, some are blank. The features are the pixels.
"""

import csv
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright
from sklearn.datasets import load_digits
from torch import nn

from lightning_noisy import NoisyImageDataModule, audit_by_features
from lightning_noisy.audit.report.page import write_report

PICTURE = Path(__file__).parents[1] / "audit_report.png"
SIZE = {"width": 1280, "height": 1640}
SIDE, FEATURES = 32, 3 * 32 * 32
IMAGES, TEST_IMAGES, COPIES, STRANGERS, BLANK = 1100, 200, 30, 25, 12
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]


class Pixels(nn.Sequential):
    """A network without a backbone, whose last layer is given the pixels."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(FEATURES, num_classes))


def write_scrape(folder: Path) -> Path:
    """PNG files and a manifest of them, whose path it gives."""
    generator = np.random.default_rng(0)
    pixels, labels = load_digits(return_X_y=True)
    drawn = [_large(row.reshape(8, 8) * 15.9) for row in pixels[: IMAGES + TEST_IMAGES]]
    given = np.where(generator.random(len(drawn)) < 0.2, generator.integers(0, 10, len(drawn)), labels[: len(drawn)])
    rows: list[tuple[str, str, str]] = []

    def add(name: str, image: Image.Image, label: int, split: str = "train") -> None:
        image.save(folder / f"{name}.png")
        rows.append((f"{name}.png", str(label), split))

    for number, image in enumerate(drawn):
        is_test = number >= IMAGES
        add(f"digit{number}", image, labels[number] if is_test else given[number], "test" if is_test else "train")
    for number in range(COPIES):
        of = IMAGES + number if number % 2 else number
        add(f"copy{number}", drawn[of], labels[of] if number % 3 else generator.integers(0, 10))
    for number in range(STRANGERS):
        wave = 127 + 127 * np.sin(np.arange(8) * generator.uniform(0.5, 3) + generator.uniform(0, 6))
        pattern = np.minimum.outer(wave, np.roll(wave, number)) if number % 2 else np.tile(wave, (8, 1))
        add(f"pattern{number}", _large(255 - pattern), generator.integers(0, 10))
    for number in range(BLANK):
        add(f"blank{number}", Image.new("L", (SIDE, SIDE), 20 * number), generator.integers(0, 10))
    manifest = folder / "digits.csv"
    with open(manifest, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    return manifest


def _large(values: np.ndarray) -> Image.Image:
    image = Image.fromarray(values.clip(0, 255).astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return image.convert("RGB")


def audit_page(folder: Path) -> Path:
    """The page of the scrape's audit."""
    data = NoisyImageDataModule(str(write_scrape(folder)), image_size=SIDE, num_workers=0, val_fraction=0)
    audit = audit_by_features(Pixels(data.num_classes), data, folder / "audit")
    return write_report(audit, audit.images)


def take_picture(page_file: Path, picture: Path) -> None:
    """The first copy whose label differs is chosen; the examples of confused pairs are left out, for want of room."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=OPTIONS)
        page = browser.new_page(viewport=SIZE)
        page.goto(page_file.as_uri())
        page.get_by_role("radio", name="Duplicates").check(force=True)
        differing = page.get_by_role("article").filter(has_text="≠")
        differing.first.click()
        page.locator("section:has(> #pairs)").evaluate("section => section.remove()")
        page.evaluate("window.scrollTo(0, 0)")
        page.screenshot(path=picture)
        browser.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        take_picture(audit_page(Path(folder)), PICTURE)


if __name__ == "__main__":
    main()
