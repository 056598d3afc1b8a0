"""What the report page holds, without a browser."""

import base64
import io
import json
import re

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from lightning_noisy.audit.folder import AuditImages
from lightning_noisy.audit.label_audit import LabelAudit
from lightning_noisy.audit.report.page import write_report
from lightning_noisy.audit.summary import LabelSums, summarise
from tests.audit.report.small_audit import write_audit

HOSTILE = ["</script><script>window.pwned=1</script>", "abc\u202egnp.exe", "x" * 10_000, "'\"&<!--"]


def embedded(path) -> dict:
    page = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL).group(1))


@pytest.mark.filterwarnings("ignore:.*can't be read.*")
class TestReport:
    def test_flagged_rows_come_first_each_by_rank(self, tmp_path):
        audit, images = write_audit(tmp_path / "a", 60, ["ant", "bee", "cat"])
        data = embedded(write_report(audit, images, most_images=50))
        expected = [rank for rank in range(1, 61) if rank % 3] + [3, 6, 9, 12, 15, 18, 21, 24, 27, 30]
        assert data["rows"]["rank"] == expected
        assert len(data["thumbnails"]) == 50
        assert data["summary"]["issues"] == 40

    def test_most_images_limits_the_flagged_ones(self, tmp_path):
        audit, images = write_audit(tmp_path / "a", 60, ["ant", "bee", "cat"])
        data = embedded(write_report(audit, images, most_images=5))
        assert data["rows"]["rank"] == [1, 2, 4, 5, 7]

    def test_a_thumbnail_is_the_image_and_a_missing_one_is_null(self, tmp_path):
        audit, images = write_audit(tmp_path / "a", 12, ["ant", "bee"])
        with pytest.warns(UserWarning, match="2 of 12 images of the report can't be read"):
            data = embedded(write_report(audit, images))
        rows = [rank - 1 for rank in data["rows"]["rank"]]
        assert [row for row, thumbnail in zip(rows, data["thumbnails"], strict=True) if thumbnail is None] == [4, 9]
        side, webp = data["thumbnails"][0]
        decoded = Image.open(io.BytesIO(base64.b64decode(webp))).convert("RGB")
        assert side == 8
        assert np.array_equal(np.asarray(decoded), np.asarray(images.read("train", 0)))  # tiny ones are lossless

    def test_large_images_become_small(self, tmp_path):
        audit, images = write_audit(tmp_path / "a", 6, ["ant", "bee"])
        images.splits["train"].store.pixels = np.zeros((6, 300, 200, 3), np.uint8)
        data = embedded(write_report(audit, images, thumbnail_size=96))
        assert data["thumbnails"][0][0] == 96

    def test_images_without_a_source_are_all_missing(self, tmp_path):
        audit, _ = write_audit(tmp_path / "a", 6, ["ant", "bee"])
        assert embedded(write_report(audit, AuditImages({})))["thumbnails"] == [None] * 6

    def test_hostile_names_stay_inside_the_data(self, tmp_path):
        audit, images = write_audit(tmp_path / "a", 30, HOSTILE, ids=[f"<b>{row}</b>" for row in range(30)])
        path = write_report(audit, images)
        page = path.read_text(encoding="utf-8")
        assert embedded(path)["summary"]["class_names"] == HOSTILE
        assert page.count("<script") == page.count("</script>") == 2
        assert "\u202e" not in page and "<b>" not in page

    def test_the_page_names_nothing_outside_itself(self, tmp_path):
        page = write_report(*write_audit(tmp_path / "a", 30, ["ant", "bee"])).read_text(encoding="utf-8")
        addresses = set(re.findall(r"https?://[^\"'\s<>]*", page))
        assert addresses == {"http://www.w3.org/2000/svg"}  # a name, not an address
        assert "default-src 'none'" in page
        assert not re.search(r"""\b(src|href)=["'](?!#|data:)""", page)

    def test_a_thousand_classes_stay_small(self, tmp_path):
        names = [f"class {number}" for number in range(1000)]
        audit, _ = write_audit(tmp_path / "a", 90, names)
        counts = 20 * np.eye(1000, dtype=int) + 3 * np.eye(1000, k=1, dtype=int) + np.eye(1000, k=-7, dtype=int)
        doubts = np.full(1000, 4.0)
        sums = LabelSums(counts - np.diag(np.diag(counts)), counts, doubts, doubts)
        summarise(sums, names, "a").write(audit.directory)
        path = write_report(LabelAudit(audit.directory), AuditImages({}))
        summary = embedded(path)["summary"]
        assert np.shape(summary["matrix"]) == (len(summary["matrix_classes"]),) * 2
        assert 2 <= len(summary["matrix_classes"]) <= 30
        assert path.stat().st_size < 400_000

    def test_an_audit_of_nothing_has_a_page(self, tmp_path):
        audit, images = write_audit(tmp_path / "a", 0, ["ant", "bee"])
        assert embedded(write_report(audit, images))["rows"]["id"] == []

    @pytest.mark.parametrize("arguments", [{"most_images": 0}, {"thumbnail_size": 0}])
    def test_numbers_must_be_positive(self, tmp_path, arguments):
        [name] = arguments
        audit, images = write_audit(tmp_path / "a", 3, ["ant", "bee"])
        with pytest.raises(ValueError, match=f"Expected argument `{name}` to be at least 1, but got 0"):
            write_report(audit, images, **arguments)
        assert not (audit.directory / "report.html").exists()

    def test_nothing_but_the_page_is_left(self, tmp_path):
        audit, images = write_audit(tmp_path / "a", 3, ["ant", "bee"])
        write_report(audit, images)
        assert sorted(path.name for path in audit.directory.iterdir()) == [
            "audit.parquet",
            "report.html",
            "summary.json",
        ]
        assert isinstance(audit.table, pa.Table)
