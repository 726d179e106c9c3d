"""The page in a real browser: it stands alone, sorts, filters, follows the theme, and everybody can read it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from playwright.sync_api import Browser, Page

from compare.cost import Busy
from compare.page import as_html
from compare.page.figures import all_charts
from compare.page.paints import contrast
from tests.browser import chromium, opened
from tests.costs import BARE, VGG, comparison, cost_card
from tests.crowds import crowd

HOSTILE = "<img src=x onerror=alert(1)>\"'&</script>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def html() -> str:
    return as_html(comparison())


@pytest.fixture(scope="module")
def crowded() -> str:
    return as_html(crowd())


def names(page: Page) -> list[str]:
    """Return the models of the rows that can be seen, from top to bottom."""
    return page.locator("#cards tbody tr:visible th a").all_inner_texts()


def colour(page: Page, selector: str, name: str = "color") -> str:
    """Return a colour as it is on the screen, as ``#rrggbb``."""
    red, green, blue = page.locator(selector).first.evaluate(
        f"each => getComputedStyle(each).getPropertyValue('{name}').match(/\\d+/g).slice(0, 3).map(Number)"
    )
    return f"#{red:02x}{green:02x}{blue:02x}"


def test_a_column_sorts_by_click_both_ways_and_what_is_unknown_stays_last(browser: Browser, html: str) -> None:
    """The first click puts the best first, the second the worst; aria-sort tells which; dashes stay at the end."""
    with opened(browser, html) as page:
        button = page.get_by_role("button", name="p50 ms, one caller")
        head = page.locator("th", has=button)
        button.click()
        assert names(page) == ["MobileNetV2", "AlexNet", "ResNet-50", "VGG-16 int8", "VGG-16", "elsewhere"]
        assert head.get_attribute("aria-sort") == "ascending"
        button.click()
        assert names(page) == ["VGG-16", "VGG-16 int8", "ResNet-50", "AlexNet", "MobileNetV2", "elsewhere"]
        assert head.get_attribute("aria-sort") == "descending"
        assert page.locator("[aria-sort]").count() == 1


def test_a_column_sorts_by_keyboard(browser: Browser, html: str) -> None:
    """Tab reaches the heads, Enter and Space sort, and the focus is seen."""
    with opened(browser, html) as page:
        page.get_by_role("searchbox").focus()
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.closest('th')?.dataset.column") == "0":
                break
        page.keyboard.press("Enter")
        assert names(page) == ["AlexNet", "elsewhere", "MobileNetV2", "ResNet-50", "VGG-16", "VGG-16 int8"]
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        page.keyboard.press("Space")
        assert names(page)[0] == "VGG-16 int8"


def test_text_and_boxes_filter(browser: Browser, html: str) -> None:
    """Words, families and variants leave the rows that fit, the count is told, and one button brings all back."""
    with opened(browser, html) as page:
        count = page.locator("#count")
        page.get_by_role("searchbox").fill("vgg int8")
        assert names(page) == ["VGG-16 int8"]
        assert count.inner_text() == "1 of 6 models"
        page.get_by_role("searchbox").fill("")
        page.get_by_role("group", name="Family").get_by_label("VGG").uncheck()
        assert "VGG-16" not in names(page)
        page.get_by_role("button", name="show all").click()
        page.wait_for_function("document.getElementById('count').value === '6 of 6 models'")
        page.get_by_role("group", name="Variant").get_by_label("fp32").uncheck()
        assert names(page) == ["VGG-16 int8"]


def test_without_javascript_everything_is_there(browser: Browser, html: str) -> None:
    """All rows, charts and details are in the page itself; controls that would do nothing are not shown."""
    with opened(browser, html, java_script_enabled=False) as page:
        assert len(page.locator("#cards tbody tr").all()) == 6
        assert page.locator("figure .chart.wide svg:visible").count() == len(all_charts(comparison()))
        for control in ("#theme", "#filters", ".script-only"):
            assert not page.locator(control).is_visible()


def test_nothing_is_wider_than_the_screen(browser: Browser, crowded: str) -> None:
    """From a small phone to a desk the page never scrolls sideways; the table does, inside its own frame."""
    with opened(browser, crowded) as page:
        for width in (320, 390, 768, 1200):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate("(each => each.scrollWidth > each.clientWidth)(document.querySelector('.scroll'))")


def test_on_a_phone_the_first_column_stays_and_text_is_legible(browser: Browser, crowded: str) -> None:
    """The models' names stand still while the figures scroll; a chart's text is never smaller than 10 pixels."""
    with opened(browser, crowded, width=390) as page:
        first = page.locator("#cards tbody th").first
        before = first.bounding_box()
        page.locator(".scroll").evaluate("each => { each.scrollLeft = 400 }")
        after = first.bounding_box()
        assert before is not None
        assert after is not None
        assert before["x"] == after["x"]
        sizes = page.locator(".chart.narrow svg").evaluate_all(
            "all => all.map(svg => 11 * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width)"
        )
        assert min(sizes) >= 10


def test_a_charts_names_do_not_leave_it(browser: Browser, crowded: str) -> None:
    """With thirty models every text of every chart lies within the drawing, wide and narrow."""
    with opened(browser, crowded) as page:
        for width, kind in ((1200, "wide"), (390, "narrow")):
            page.set_viewport_size({"width": width, "height": 900})
            outside = page.locator(f".chart.{kind} svg").evaluate_all(
                "all => all.flatMap(svg => { const frame = svg.getBoundingClientRect();"
                " return [...svg.querySelectorAll('text')].filter(text => { const box = text.getBoundingClientRect();"
                " return box.left < frame.left - 3 || box.right > frame.right + 3; }).map(text => text.textContent); })"
            )
            assert outside == []


def test_dark_and_light_are_readable(browser: Browser, html: str) -> None:
    """In either theme text has 4.5:1, in charts too, and the button changes the theme."""
    with opened(browser, html) as page:
        button = page.locator("#theme")
        for scheme, offered in (("light", "dark theme"), ("dark", "light theme")):
            page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
            page.evaluate("() => { delete document.documentElement.dataset.theme; }")
            page.wait_for_function(f"document.getElementById('theme').textContent === '{offered}'")
            before = check_contrast(page)
            button.click()
            assert check_contrast(page) != before


def check_contrast(page: Page) -> str:
    """Fail where text is hard to read; return the ground's colour."""
    card, ground = colour(page, ".card", "background-color"), colour(page, "body", "background-color")
    assert contrast(colour(page, "h1"), ground) >= 7
    assert contrast(colour(page, ".lead"), ground) >= 4.5
    assert contrast(colour(page, ".reading"), card) >= 4.5
    assert contrast(colour(page, "#cards tbody td"), card) >= 7
    assert contrast(colour(page, "#weights .wide text", "fill"), card) >= 4.5
    assert contrast(colour(page, "#pareto .wide text", "fill"), card) >= 4.5
    return ground


def test_every_chart_has_a_name_that_says_what_it_shows(browser: Browser, html: str) -> None:
    """Who cannot see the charts hears title and finding of each, once; landmarks, caption and heads are there."""
    with opened(browser, html) as page:
        spoken = [image.get_attribute("aria-label") or "" for image in page.get_by_role("img").all()]
        expected = [f"{chart.title}. {chart.finding}" for chart in all_charts(comparison())]
        assert spoken == expected
        assert all(len(name) > 40 for name in spoken)
        for role in ("banner", "main", "contentinfo", "navigation"):
            assert page.get_by_role(role).count() == 1
        assert page.get_by_role("table", name=re.compile("Medians of the rounds")).count() == 1
        assert page.get_by_role("rowheader").count() == 6
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the table"
        assert page.locator(".skip").is_visible()


def test_paper_is_light_and_holds_everything(browser: Browser, html: str) -> None:
    """Printed from the dark theme: light colours, wide charts no broader than the sheet, no controls, every figure."""
    with opened(browser, html, width=1030, color_scheme="dark") as page:
        page.emulate_media(media="print")
        assert colour(page, "h1") == "#1b1f24"
        assert colour(page, "#weights .wide text", "fill") in {"#1b1f24", "#59626d", "#fffffe"}
        for control in ("#theme", "#filters", "nav", ".chart.narrow"):
            assert not page.locator(control).first.is_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 1030
        cells = page.locator("#cards tbody tr:first-child td[data-value]")
        assert all(cell.is_visible() for cell in cells.all())


def test_hostile_names_stay_text(browser: Browser) -> None:
    """A model named like markup runs nothing and is shown as it is named."""
    card = cost_card(HOSTILE, HOSTILE, onnx_bytes=10_000_000, seconds=0.01, family=HOSTILE, adaptation=HOSTILE)
    hostile = comparison(VGG, card)
    with opened(browser, as_html(replace(hostile, environment={**hostile.environment, "cpu": HOSTILE}))) as page:
        assert page.locator("img").count() == 0
        assert page.locator("#cards tbody tr").nth(1).locator("small").inner_text() == f"{HOSTILE}*"
        assert HOSTILE in page.locator(".lead").inner_text()


def test_a_busy_machine_is_told_first() -> None:
    """The warning stands above the headline, in words, with figures; on a machine at rest there is none."""
    calm, busy = as_html(comparison(BARE)), as_html(comparison(BARE, busy=Busy(0.8, 0.1, is_busy=True)))
    told = busy.index("other processes took 0.80 cores")
    assert busy.index('<p class="warning"') < told < busy.index("<h1>")
    assert '<p class="warning"' not in calm


def test_a_link_to_a_model_opens_its_details(browser: Browser, html: str) -> None:
    """The name in the table leads to what the model is."""
    with opened(browser, html) as page:
        page.locator("#cards tbody tr").first.get_by_role("link").click()
        details = page.locator("#model-1")
        details.get_by_text("largest layer").wait_for(state="visible", timeout=5000)
        assert details.evaluate("each => each.open")


def test_a_page_of_thirty_models_is_small(crowded: str) -> None:
    """Thirty models with all their samples, drawn twice, are under 3 MB."""
    assert len(crowded.encode()) < 3_000_000
