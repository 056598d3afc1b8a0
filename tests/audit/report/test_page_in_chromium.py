"""The report page in headless Chromium: what a reviewer does with it."""

import json
import re
from pathlib import Path

import pytest

from lightning_noisy.audit.report.page import write_report
from tests.audit.report.small_audit import write_audit

from .chromium import CHROMIUM, saved

NAMES = ["ant", "bee", "<script>window.pwned = 1</script>", "abc\u202egnp.exe", "x" * 10_000, "__proto__"]
IMAGES = 90
FLAGGED = 60
CONTRAST = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => rgb.slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (colour.startsWith("rgb(")) return parse(colour);
      if (colour.startsWith("color(srgb")) return parse(colour.slice(10)).map((v) => 255 * v);
    }
  };
  const worst = {};
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !e.checkVisibility() || e.closest("option, script, noscript, :disabled")) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) worst[`${e.tagName} ${e.className} ${e.textContent.slice(0, 20)}`] = ratio;
  }
  return worst;
}"""

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: `apt-get install chromium` brings one"),
    pytest.mark.filterwarnings("ignore:.*can't be read.*"),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    return write_report(*write_audit(tmp_path_factory.mktemp("audit"), IMAGES, NAMES))


@pytest.fixture
def open_page(browser, report):
    """Opens the page in a browser without a past; whatever goes wrong in it fails the test."""
    contexts, troubles = [], []

    def open_it(path: Path = report, before: str | None = None, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(5000)
        page.on("console", lambda message: troubles.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: troubles.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (troubles.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on(
            "request",
            lambda request: request.url.startswith(("file:", "data:", "blob:")) or troubles.append(request.url),
        )
        if before:
            page.add_init_script(before)
        page.goto(path.as_uri())
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert troubles == []


def tile(page, rank):
    return page.get_by_role("article", name=f"Rank {rank}:")


def upload(page, text: str) -> None:
    page.get_by_label("Decisions file").set_input_files(
        {"name": "decisions.json", "mimeType": "application/json", "buffer": text.encode()}
    )


def review(page, keys: str) -> None:
    page.get_by_role("button", name="Start review").click()
    for key in keys:
        page.keyboard.press(key)


def audit_id(report: Path) -> str:
    return json.loads((report.parent / "summary.json").read_text(encoding="utf-8"))["audit_id"]


def test_review_by_keyboard_is_kept_undone_and_saved(open_page, report):
    page = open_page(accept_downloads=True)
    review(page, "akduaz")
    assert page.get_by_role("status").filter(has_text="Undone").count() == 1
    expected = [("0.png", "accept"), ("1.png", "keep"), ("3.png", "drop"), ("4.png", "unsure")]
    decisions = [{"id": name, "decision": decision} for name, decision in expected]
    assert saved(page) == {"format": 1, "audit_id": audit_id(report), "decisions": decisions}
    page.reload()
    assert page.locator("#progress-text").inner_text().startswith("4 of 90 reviewed · 1 accepted · 1 kept")
    assert tile(page, 4).get_by_text("Dropped").is_visible()
    assert saved(page)["decisions"] == decisions


def test_arrows_move_and_the_same_decision_again_takes_it_back(open_page):
    page = open_page()
    review(page, ["ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp", "ArrowRight", "d"])
    assert tile(page, 2).get_by_text("Dropped").is_visible()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("d")
    assert tile(page, 2).get_by_text("Dropped").count() == 0
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("Rank 2:")
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("Rank 89:")
    page.keyboard.press("?")
    assert page.get_by_role("dialog", name="Review by keyboard").is_visible()


def test_filters_and_order(open_page, report):
    page = open_page()
    shown = page.locator("#shown")
    assert shown.inner_text() == f"{FLAGGED} images shown"
    page.get_by_label("Flagged", exact=True).select_option("")
    assert shown.inner_text() == f"{IMAGES} images shown"
    page.get_by_label("Sort by").select_option("p_given_down")
    assert page.get_by_role("article").first.get_attribute("aria-label").startswith("Rank 90:")
    page.get_by_label("Highest probability of the given label, percent").fill("10")
    below = 1 + int((0.10 - 0.01) / (0.49 / (IMAGES - 1)))
    assert shown.inner_text() == f"{below} images shown"
    page.get_by_role("button", name="Clear filters").click()
    assert shown.inner_text() == f"{FLAGGED} images shown"
    page.get_by_role("button", name=re.compile("Given .ant., suggested .bee.")).click()
    summary = json.loads((report.parent / "summary.json").read_text(encoding="utf-8"))
    [expected] = [pair["count"] for pair in summary["pairs"] if (pair["given"], pair["suggested"]) == (0, 1)]
    assert shown.inner_text() == f"{expected} images shown"
    for _ in range(expected):
        page.keyboard.press("k")
    page.get_by_label("Review", exact=True).select_option("open")
    assert shown.inner_text() == "0 images shown"
    assert page.get_by_text("No image passes these filters.").is_visible()


def test_a_decided_image_leaves_the_list_of_open_ones_and_undo_brings_it_back(open_page):
    page = open_page()
    page.get_by_label("Review", exact=True).select_option("open")
    review(page, "k" * FLAGGED)
    assert page.get_by_text("No image passes these filters.").is_visible()
    page.keyboard.press("z")
    assert tile(page, 89).is_visible()
    assert page.locator("#shown").inner_text() == "1 image shown"


def test_the_buttons_of_the_panel_keep_the_focus(open_page):
    page = open_page()
    review(page, "")
    page.get_by_role("button", name="Keep given label").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert page.locator("#progress-text").inner_text().endswith("2 kept")
    assert page.evaluate("document.activeElement.dataset.decision") == "keep"


def test_decisions_are_loaded_and_those_of_another_audit_refused(open_page, report):
    page = open_page(accept_downloads=True)
    mine = {"format": 1, "audit_id": audit_id(report), "decisions": [{"id": "0.png", "decision": "drop"},
            {"id": "__proto__", "decision": "keep"}]}  # fmt: skip
    upload(page, json.dumps({**mine, "audit_id": "another"}))
    assert "belong to another audit" in page.get_by_role("alert").inner_text()
    for wrong in ("{", "[]", "null", json.dumps({**mine, "decisions": [{"id": 1, "decision": "drop"}]})):
        upload(page, wrong)
        page.get_by_role("alert").filter(has_text="This file").wait_for()
    assert page.locator("#progress-text").inner_text() == f"0 of {IMAGES} reviewed"
    upload(page, json.dumps(mine))
    tile(page, 1).get_by_text("Dropped").wait_for()
    assert page.get_by_role("alert").count() == 0
    assert saved(page) == mine
    page.get_by_role("button", name="Undo").click()
    assert saved(page)["decisions"] == []


def test_hostile_names_are_text(open_page):
    page = open_page()
    review(page, "aaaaaaaaaa")
    assert page.evaluate("window.pwned") is None
    text = page.locator("body").inner_text()
    assert "<script>window.pwned" in text and "⟨U+202E⟩" in text and "\u202e" not in text
    assert len(max(text.split(), key=len)) < 100
    assert page.locator("bdi[title^=xxxx]").first.get_attribute("title") == "x" * 10_000


def test_missing_images_say_so(open_page):
    page = open_page()
    review(page, "")
    assert tile(page, 5).get_by_text("Can’t be read").is_visible()
    assert "can’t be read any more" in page.locator("#embedded").inner_text()


def test_phone_by_touch(open_page):
    page = open_page(viewport={"width": 375, "height": 740}, has_touch=True, is_mobile=True)
    page.get_by_role("button", name="Start review").tap()
    tile(page, 2).tap()
    page.get_by_role("button", name="Drop").tap()
    assert tile(page, 2).get_by_text("Dropped").is_visible()
    assert page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [375, 375]
    small = page.locator("button:visible").evaluate_all(
        "all => all.map((e) => e.getBoundingClientRect()).filter((box) => box.height < 40 || box.width < 40).length"
    )
    assert small == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_and_names_of_controls(open_page, scheme):
    page = open_page(color_scheme=scheme)
    review(page, "akdu")
    assert page.evaluate(CONTRAST) == {}
    for role in ("button", "combobox", "spinbutton", "article", "progressbar", "feed", "complementary"):
        found = page.get_by_role(role)
        assert found.count() > 0, role
        assert page.get_by_role(role, name=re.compile(r"\S")).count() == found.count(), role


def test_without_storage_the_review_goes_on(open_page):
    page = open_page(before="Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('no'); }})")
    review(page, "ak")
    assert "can’t keep your progress" in page.get_by_role("alert").inner_text()
    assert page.locator("#progress-text").inner_text().startswith(f"2 of {IMAGES} reviewed")


@pytest.mark.slow
def test_five_thousand_tiles_are_never_in_the_page_at_once(open_page, tmp_path):
    audit, images = write_audit(tmp_path / "large", 5000, ["ant", "bee"], row_group_size=5000)
    page = open_page(write_report(audit, images, most_images=5000))
    page.get_by_label("Flagged", exact=True).select_option("")
    page.get_by_role("button", name="Start review").click()
    page.keyboard.press("End")
    tile(page, 5000).wait_for()
    assert page.get_by_role("article").count() < 200
    spent = page.evaluate("() => { const t = performance.now(); decide('drop'); return performance.now() - t; }")
    assert spent < 500  # milliseconds; a few tens on an idle machine
