"""How large the page of an audit is, and how long it takes to write, to open and to scroll, in headless Chromium.

    python benchmarks/audit_page.py                 # 5,000 small pictures of 128 pixels, 1,000 classes
    python benchmarks/audit_page.py --images 500    # fewer, to see that it runs

The pictures are smooth colours with some noise, a tenth of them in groups of copies. First paint is what the browser
reports; a frame of scrolling is the time between two frames while the page scrolls by a screen each. A line of JSON in
the results file.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from rich.console import Console

from lightning_noisy.audit.folder import AuditFolder, AuditImages
from lightning_noisy.audit.report.page import write_report
from lightning_noisy.audit.schema import AUDIT_FILE, AUDIT_SCHEMA
from lightning_noisy.audit.summary import LabelSums, summarise
from lightning_noisy.data.image_stores import ArrayStore
from lightning_noisy.data.labelled_images import LabelledImages

HERE = Path(__file__).parent
SIDE, CLASSES, COPIES = 128, 1000, 10
OPTIONS = ["--no-sandbox", "--disable-gpu"]
SCREENS = 40
SCROLL = """async (screens) => {
  const frame = () => new Promise((done) => requestAnimationFrame(done));
  const times = [];
  for (let i = 0; i < screens; i++) {
    const begun = await frame();
    window.scrollBy(0, window.innerHeight);
    times.push(await frame() - begun);
  }
  return times;
}"""
PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"
LOADED = "() => performance.getEntriesByType('navigation')[0].loadEventEnd"


def write_audit(folder: Path, images: int) -> tuple[AuditFolder, AuditImages]:
    """An audit in its folder, two thirds of whose images are flagged, and the images."""
    generator = np.random.default_rng(0)
    names = [f"class {label}" for label in range(CLASSES)]
    given = generator.integers(0, CLASSES, images)
    flagged = np.arange(images) % 3 != 2
    suggested = np.where(flagged, generator.integers(0, CLASSES, images), given)
    copy = np.arange(images) % COPIES == 0
    p_given = np.linspace(0.01, 0.9, images).astype(np.float32)
    ids = [f"photos/{row:06d}.jpg" for row in range(images)]
    columns = {
        "id": ids, "path": ids, "split": ["train"] * images, "row": np.arange(images),
        "given_label": given.astype(np.int32), "given_class": [names[label] for label in given],
        "suggested_label": suggested.astype(np.int32), "suggested_class": [names[label] for label in suggested],
        "p_given": p_given, "p_suggested": 1 - p_given, "clean_probability": p_given, "is_issue": flagged,
        "rank": np.arange(1, images + 1), "is_label_issue": flagged, "label_issue_score": p_given,
        "is_near_duplicate": copy, "near_duplicate_score": np.where(copy, 0, 1).astype(np.float32),
        "is_conflicting_duplicate": copy, "near_duplicate_group": pa.array(np.arange(images) // 20, mask=~copy),
        "near_duplicate_splits": pa.array(np.full(images, "train"), mask=~copy),
    }  # fmt: skip
    others = {name: pa.nulls(images) for name in AUDIT_SCHEMA.names if name not in columns}
    table = pa.table({**columns, **others}).select(AUDIT_SCHEMA.names).cast(AUDIT_SCHEMA)
    pyarrow.parquet.write_table(table, folder / AUDIT_FILE)
    likeliest, issues = np.zeros((2, CLASSES, CLASSES), dtype=int)
    np.add.at(likeliest, (suggested, given), 1)
    np.add.at(issues, (suggested[flagged], given[flagged]), 1)
    doubts = np.bincount(given, flagged, CLASSES)
    summarise(LabelSums(issues, likeliest, doubts, doubts), names, "benchmark").write(folder)
    colours = generator.integers(0, 255, (images, 4, 4, 3), dtype=np.uint8).repeat(SIDE // 4, 1).repeat(SIDE // 4, 2)
    pixels = colours // 2 + generator.integers(0, 64, colours.shape, dtype=np.uint8)
    labelled = LabelledImages(pa.array(ids), given, given, names, ArrayStore(pixels), np.arange(images))
    return AuditFolder(folder), AuditImages({"train": labelled})


def measure(images: int, chromium: str) -> dict:
    """A line of results."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        audit, pictures = write_audit(Path(folder), images)
        begun = time.perf_counter()
        path = write_report(audit, pictures, most_images=images)
        written = time.perf_counter() - begun
        browser = playwright.chromium.launch(executable_path=chromium, args=OPTIONS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(path.as_uri(), wait_until="load")
        page.wait_for_function("document.querySelectorAll('article').length > 0")
        page.wait_for_timeout(1000)
        frames = page.evaluate(SCROLL, SCREENS)
        line = {
            "images": images,
            "classes": CLASSES,
            "megabytes": round(path.stat().st_size / 1e6, 1),
            "seconds_to_write": round(written, 1),
            "first_paint_ms": round(page.evaluate(PAINT) or -1),
            "loaded_ms": round(page.evaluate(LOADED)),
            "frame_ms_median": round(statistics.median(frames), 1),
            "frame_ms_most": round(max(frames), 1),
            "cores": os.cpu_count(),
            "load": round(os.getloadavg()[0], 1),
        }
        browser.close()
    return line


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "audit_page.jsonl", help="the results file")
    options = parser.parse_args(arguments)
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise SystemExit("Expected Chromium to be installed, but found none: `apt-get install chromium`.")
    line = measure(options.images, chromium)
    with options.output.open("a") as file:
        file.write(json.dumps(line) + "\n")
    Console().print(line, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
