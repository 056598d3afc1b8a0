"""The report page of an audit with duplicates, strangers and poor pictures, in headless Chromium."""

import dataclasses
import json

import pytest

from lightning_noisy.audit.issues.findings import IssueFindings, SplitClass
from lightning_noisy.audit.report.page import write_report

from ..made import audit_of, mark
from ..scrape import write_scrape
from .chromium import CHROMIUM, saved

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: `apt-get install chromium` brings one")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds")
    audit = audit_of(folder / "audit", write_scrape(folder / "scrape"))
    names = {name: f"{name}.png" for name in ("red0", "red1", "red2", "green4", "blue0", "blue1", "blue2")}
    first = dict.fromkeys((names["red0"], names["red1"], names["green4"]), 0)
    second = dict.fromkeys((names["blue0"], names["blue1"]), 1)
    several = dict.fromkeys(first, "train, val") | dict.fromkeys(second, "train")
    mark(
        audit,
        {
            "near_duplicate_group": first | second,
            "near_duplicate_splits": several,
            "is_near_duplicate": dict.fromkeys(several, True),
            "is_conflicting_duplicate": dict.fromkeys(first, True),
            "suggested_label": dict.fromkeys(audit.table["id"].to_pylist(), -1) | {"red2.png": 2, "red13.png": 2},
            "is_outlier": {names["red2"]: True},
            "outlier_score": {names["red2"]: 0.1},
            "is_low_information": {names["blue2"]: True},
            "low_information_score": {names["blue2"]: 0.0},
            **{
                f"{kind}_score": {names["blue2"]: 1.0}
                for kind in ("placeholder", "dark", "light", "blurry", "odd_aspect_ratio", "odd_size")
            },
        },
    )
    split = SplitClass(0, 0.4, 0.2, [["red2.png", "gone.png"], ["red4.png", "red6.png", "red7.png"]])
    audit.summary = dataclasses.replace(audit.summary, found=IssueFindings({}, split_classes=[split]))
    return write_report(audit, audit.images)


@pytest.fixture
def page(browser, report):
    context = browser.new_context(accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(5000)
    troubles = []
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.goto(report.as_uri())
    yield page
    context.close()
    assert troubles == []


def show(page, view):
    page.get_by_role("radio", name=view).check(force=True)


def shown(page):
    return [tile.get_attribute("aria-label") for tile in page.get_by_role("article").all()]


def test_views_hold_the_images_of_their_kinds(page):
    assert page.get_by_role("radio").count() == 4
    show(page, "Unlike all classes 1")
    assert len(shown(page)) == 1
    assert "Unlike all classes." in shown(page)[0]
    show(page, "Poor pictures 1")
    assert "Blank." in shown(page)[0]
    show(page, "Duplicates 5")
    labels = shown(page)
    assert len(labels) == 5
    assert all("of 3." in label and "Leak. Labels differ." in label for label in labels[:3])  # copies are side by side
    assert all("of 2." in label for label in labels[3:])
    page.get_by_role("button", name="Clear filters").click()
    assert page.get_by_role("radio", name="Labels").is_checked()


def test_examples_of_a_pair_show_a_class(page):
    data = json.loads(page.locator("#data").text_content())
    rows = data["rows"]
    kinds = dict(zip(rows["id"], rows["kinds"], strict=True))
    assert kinds["red2.png"] == ["outlier"] and kinds["blue2.png"] == ["low_information"]
    odd = 0
    for button, (given, suggested, _) in zip(
        page.locator("#pairs button").all(), data["summary"]["pairs"], strict=True
    ):
        here = zip(rows["id"], rows["is_issue"], rows["given_label"], rows["suggested_label"], strict=True)
        flagged = [name for name, is_issue, *labels in here if is_issue and labels == [given, suggested]]
        fitting = [name for name in flagged if not {"outlier", "low_information"} & {*kinds[name]}]
        odd += len(flagged) - len(fitting)
        assert button.locator(".pair-examples img").count() == min(len(fitting), 5)
    assert odd, "one of them is flagged"


def test_a_class_that_looks_like_two_is_shown_with_images_of_both_groups(page, report):
    card = page.locator("#split")
    assert card.is_visible()
    name = json.loads(page.locator("#data").text_content())["summary"]["class_names"][0]
    assert (
        card.get_by_role("button")
        .get_attribute("aria-label")
        .endswith(f"{name}\u2069: groups of 60% and 40%, 20% of the usual neighbours over the gap. Show the first")
    )
    groups = card.locator(".pair-examples")
    assert [groups.nth(n).locator("img").count() for n in range(groups.count())] == [1, 3]  # one of them is gone
    assert "looks like two classes" in page.locator("#findings").inner_text()
    card.get_by_role("button").click()
    assert all(name in label for label in shown(page))


def test_keep_one_drops_the_other_copies_and_is_one_step_of_undo(page):
    show(page, "Duplicates")
    copies = page.locator("#copy-list button")
    assert copies.count() == 3
    assert page.locator("#copy-list").inner_text().startswith("The same picture, in train and val")
    copies.nth(1).click()
    page.get_by_role("button", name="Keep this one").click()
    decisions = {each["id"]: each["decision"] for each in saved(page)["decisions"]}
    assert sorted(decisions.values()) == ["drop", "drop", "keep"]
    page.get_by_role("button", name="Undo").click()
    assert saved(page)["decisions"] == []


def test_copies_are_decided_by_keyboard(page):
    show(page, "Duplicates")
    page.get_by_role("article").first.click()
    page.keyboard.press("o")
    page.keyboard.press("o")
    decisions = [each["decision"] for each in saved(page)["decisions"]]
    assert sorted(decisions) == ["drop", "drop", "drop", "keep", "keep"]
    show(page, "Unlike all classes")
    page.get_by_role("article").first.click()
    page.keyboard.press("d")
    assert {"id": "red2.png", "decision": "drop"} in saved(page)["decisions"]


def test_a_phone_shows_all_of_it(browser, report):
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(report.as_uri())
    show(page, "Duplicates")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.get_by_role("button", name="Keep this one").is_visible()
    context.close()
