"""Headless Chromium, and what the page saves in it."""

import json
import shutil
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]


def saved(page) -> dict:
    with page.expect_download() as download:
        page.get_by_role("button", name="Save decisions").click()
    assert download.value.suggested_filename == "decisions.json"
    return json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
