"""The page as Chromium shows it: alone, by mouse and keyboard, on a phone, in the dark, and without a script."""

from itertools import pairwise

import pytest

from stages.report import stage
from tests.report.test_report import PARAMS, root  # noqa: F401


@pytest.fixture
def page(root):  # noqa: F811
    (root / "plots/roc/random.csv").write_text(
        "fpr,tpr,threshold\n0,0.25,9\n0.01,0.25,8\n0.01,0.5,7\n0.1,0.75,6\n1,1,-1\n"
    )
    stage.run(PARAMS, root)
    return root / "plots/report.html"


def values(tab) -> list[str]:
    return tab.locator(".chart").first.locator(".value").all_inner_texts()


def test_it_asks_for_nothing_and_a_chart_answers(page, visit):
    visited = visit(page, viewport={"width": 1100, "height": 900})
    tab = visited.tab
    roc = tab.locator(".chart").first
    slider, picture = roc.locator("input[type=range]"), roc.locator("svg").first
    assert values(tab) == [""]

    picture.scroll_into_view_if_needed()
    box = picture.bounding_box()
    x = tab.evaluate("JSON.parse(document.querySelector('.chart script').textContent).x")
    across = x[3] + (x[4] - x[3]) * 0.25  # halfway between the powers 0.01 and 0.1: FAR 0.032
    tab.mouse.move(box["x"] + box["width"] * across / 600, box["y"] + box["height"] / 2)
    assert values(tab) == ["0.5"]  # the greatest TAR of a FAR that is not above
    assert roc.locator(".at").inner_text() == "0.0316"

    slider.focus()
    tab.keyboard.press("End")
    assert slider.get_attribute("aria-valuetext") == "1: random 1"
    tab.keyboard.press("Home")
    assert values(tab) == ["0.5"]
    roc.locator("input[type=checkbox]").first.uncheck()
    assert values(tab) == [""]
    assert not roc.locator("polyline").first.is_visible()
    assert visited.asked == []
    assert visited.errors == []


def test_sheets_are_switched_by_the_keyboard(page, visit):
    tab = visit(page).tab
    panes = tab.locator("#samples .pane")
    assert [panes.nth(n).is_visible() for n in range(3)] == [True, False, False]
    tab.locator("#samples input").first.focus()
    tab.keyboard.press("ArrowRight")
    assert [panes.nth(n).is_visible() for n in range(3)] == [False, True, False]
    assert tab.get_by_role("radio", name="aligned").is_checked()


def test_a_phone_in_the_dark(page, visit):
    tab = visit(page, viewport={"width": 360, "height": 740}, color_scheme="dark").tab
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    dark, light = (
        tab.evaluate("(name) => getComputedStyle(document.body)[name].match(/\\d+/g).map(Number)", name)
        for name in ("backgroundColor", "color")
    )
    assert max(dark) < 50
    assert min(light) > 200


def test_a_screen_reader_finds_its_way(page, visit):
    tab = visit(page).tab
    assert tab.evaluate("document.documentElement.lang") == "en"
    for landmark in ("banner", "navigation", "main"):
        assert tab.get_by_role(landmark).count() == 1
    levels = tab.evaluate("[...document.querySelectorAll('h1,h2,h3')].map((one) => +one.tagName[1])")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    nameless = """[...document.querySelectorAll('input')].filter((one) => !one.labels.length
        || !one.labels[0].textContent.trim()).length"""
    assert tab.evaluate(nameless) == 0
    assert tab.get_by_role("img", name="ROC of each benchmark: true accept rate").count() == 1
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.className") == "skip"


def test_without_a_script_it_is_a_page_of_pictures(page, visit):
    tab = visit(page, java_script_enabled=False).tab
    chart = tab.locator(".chart").first
    assert chart.locator("polyline").is_visible()
    assert not chart.locator(".reader").is_visible()
    tab.get_by_text("aligned", exact=True).click()
    assert tab.locator("#samples .pane").nth(1).is_visible()
