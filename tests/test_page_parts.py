"""The parts of the page that need no browser: fronts, axes, the places of names, colours."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compare.cost import Published
from compare.page import as_html, figure_svg
from compare.page.axis import Axis, linear_axis, log_axis
from compare.page.figures import all_charts
from compare.page.front import front, steps
from compare.page.names import FOCUS, labels, marks
from compare.page.paints import ON_SERIES, PAGE, PAINTS, SERIES, SURFACE, contrast, darkened
from compare.page.place import LINE_HEIGHT, Point, place, spread
from models.spec import NetweightError
from tests.costs import BARE, INT8, MOBILENET, RESNET, UNTRAINED, VGG, comparison, cost_card
from tests.crowds import crowd

LENET = cost_card("lenet5", "LeNet-5", onnx_bytes=250_000, seconds=0.0007)
POINTS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=25)


def dominates(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] <= other[0] and one[1] >= other[1] and one != other


@given(POINTS)
def test_no_point_on_the_front_is_dominated_and_every_other_is(points: list[tuple[float, float]]) -> None:
    """A point is on the front if and only if no other costs no more and gives no less, and is better in one."""
    chosen = set(front(points))
    for index, point in enumerate(points):
        assert (index in chosen) == (not any(dominates(other, point) for other in points))


@given(POINTS.filter(bool))
def test_the_line_of_the_front_never_falls_and_lies_above_every_point(points: list[tuple[float, float]]) -> None:
    """At each point's cost the line is at least as high as the point; along it both cost and value only grow."""
    corners = steps(points, end=10)
    assert corners == sorted(corners)
    assert [value for _, value in corners] == sorted(value for _, value in corners)
    for cost, value in points:
        assert max(high for at, high in corners if at <= cost) >= value


@given(st.floats(1e-3, 1e6), st.floats(1.0, 1e6), st.floats(0, 500), st.booleans())
def test_an_axis_leads_from_values_to_pixels_and_back(first: float, times: float, pixel: float, is_log: bool) -> None:
    """The value at a pixel lies at that pixel."""
    axis = Axis(first, first * (times + 1), 500, is_log=is_log)
    assert axis.pixel(axis.value(pixel)) == pytest.approx(pixel, abs=1e-3)


@given(st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=9), st.integers(150, 1000))
def test_a_logarithmic_axis_holds_its_values_and_has_ticks(numbers: list[float], pixels: int) -> None:
    """Every value lies within the axis, and at least two numbers stand along it, none on top of another."""
    axis = log_axis(numbers, pixels)
    assert all(0 <= axis.pixel(number) <= pixels for number in numbers)
    places = [axis.pixel(tick) for tick in axis.ticks()]
    assert len(places) > 1
    assert places == sorted(places)
    assert all(-1 <= at <= pixels + 1 for at in places)


def test_a_linear_axis_of_equal_values_still_has_a_length() -> None:
    """Two models with the same accuracy make no axis without a length; percent do not pass 100."""
    axis = linear_axis([99.2, 99.2], 300, least=0, most=100)
    assert axis.first < 99.2 < axis.last <= 100
    assert axis.ticks()


def test_names_of_points_cover_neither_each_other_nor_leave_the_plot() -> None:
    """Of thirty points in a narrow strip those names are placed that fit; no two of them overlap by a letter."""
    points = [Point(150 + 7 * (n % 6), 100 + 5 * n, 5, f"network-{n}") for n in range(30)]
    boxes = [box for box in place(points, 500, 330) if box is not None]
    assert len(boxes) > 10
    assert all(one.overlap(other) < 0.1 * one.width * one.height for one, other in combinations(boxes, 2))
    assert all(box.left >= 0 and box.left + box.width <= 500 for box in boxes)


@given(st.lists(st.floats(0, 400), max_size=60))
def test_names_along_a_line_keep_their_order_and_their_distance(places: list[float]) -> None:
    """Spread names stay within the line, in the order of what they name, a line's height apart where there is room."""
    result = spread(places, 400)
    gap = LINE_HEIGHT if (len(places) - 1) * LINE_HEIGHT <= 400 else 400 / (len(places) - 1)
    ordered = [place for _, place in sorted(zip(places, result, strict=True))]
    assert all(-1e-6 <= each <= 400 + 1e-6 for each in result)
    assert all(right - left >= gap - 1e-6 for left, right in zip(sorted(ordered), sorted(ordered)[1:], strict=False))


def test_series_are_told_from_both_grounds_and_text_is_readable_on_them() -> None:
    """Each series has 3:1 against page and card in its theme, and the text on it 4.5:1."""
    for paint in SERIES:
        for ground in (PAGE, SURFACE):
            assert contrast(paint.light, ground.light) >= 3
            assert contrast(paint.dark, ground.dark) >= 3
        assert contrast(paint.light, ON_SERIES.light) >= 4.5
        assert contrast(paint.dark, ON_SERIES.dark) >= 4.5


def test_every_light_colour_is_of_one_paint() -> None:
    """Charts are drawn in light colours, which style rules tell apart: no two paints share one."""
    assert len({paint.light for paint in PAINTS}) == len(PAINTS)


def test_charts_use_no_colour_that_the_themes_do_not_know() -> None:
    """Whatever is drawn in any chart is of a paint, or it would stay light in the dark."""
    known = {paint.light for paint in PAINTS} | {"none"}
    for chart in all_charts(comparison()):
        svg = figure_svg(comparison(), chart.name)
        assert set(re.findall(r' (?:fill|stroke)="([^"]+)"', svg)) <= known, chart.name


def test_a_dark_picture_has_no_light_colour() -> None:
    """A stand-alone SVG for a dark ground has its own colours, and the light one differs in nothing else."""
    light, dark = figure_svg(comparison(), "cost"), figure_svg(comparison(), "cost", dark=True)
    assert dark == darkened(light) != light
    assert not {paint.light for paint in PAINTS} & set(re.findall(r'"(#[0-9a-f]{6})"', dark))


def test_the_picture_shows_the_networks_that_readers_look_for_with_ratios() -> None:
    """VGG-16, ResNet-50 and MobileNetV2 stand beside each other, in MB, MiB, ms and inferences/s."""
    svg = figure_svg(comparison(), "cost").replace("\N{NO-BREAK SPACE}", " ")
    for text in (
        "VGG-16",
        "ResNet-50",
        "MobileNetV2",
        "553.0 MB",
        "580.1 MiB",
        "188.8 ms",
        "6.11 inferences/s",
        "(36\N{MULTIPLICATION SIGN})",
    ):
        assert text in svg


def test_numbers_in_words_are_left_as_they_are() -> None:
    """Coordinates are cut to hundredths of a pixel; a figure on the drawing or in its tooltip is not."""
    quick = replace(LENET, title="0.12345")
    svg = figure_svg(comparison(quick, RESNET), "latency")
    assert ">0.12345<" in svg
    assert ">0.734\N{NO-BREAK SPACE}ms<" in svg
    assert "<title>0.12345, p50: 0.734" in svg
    assert not re.search(r"<(?:path|text|rect|line)[^>]*\d\.\d{3}", svg)


def test_the_picture_takes_the_nearest_of_kin() -> None:
    """Without ResNet-50 and VGG-16 their heaviest relatives stand for them, batch norm shortened; variants never do."""
    kin = cost_card("vgg16_bn", "VGG-16 with batch norm", family="VGG")
    light = cost_card("resnet18", "ResNet-18", onnx_bytes=45_000_000, family="ResNet")
    chart = all_charts(comparison(INT8, light, kin))[0]
    assert chart.title == "What VGG-16 BN costs beside ResNet-18"


def test_an_unknown_chart_is_refused_with_those_that_there_are() -> None:
    """Who asks for a chart that is not there is told which there are."""
    with pytest.raises(NetweightError, match=r"no chart 'weight'.*expected one of cost, pareto.*weights"):
        figure_svg(comparison(), "weight")


def test_published_and_measured_accuracy_never_share_a_chart() -> None:
    """Measured models and those with published accuracy only have charts of their own, whose axes say which."""
    other = replace(UNTRAINED, model="resnet18", title="ResNet-18", disk=RESNET.disk)
    charts = {chart.name: chart for chart in all_charts(comparison(VGG, RESNET, UNTRAINED, other))}
    measured, published = str(charts["pareto"].draw(508)), str(charts["pareto-published"].draw(508))
    assert "measured top-1" in measured
    assert "published" not in measured
    assert "AlexNet" not in measured
    assert "published top-1, % (not measured here)" in published
    assert "VGG" not in published


def test_the_layer_that_holds_most_of_vgg_is_named() -> None:
    """The chart of weights says it in words, and the layer's name stands in its bar."""
    chart = next(chart for chart in all_charts(comparison()) if chart.name == "weights")
    assert "VGG-16, classifier.0, holds 497.7" in chart.finding
    assert ">classifier.0 90.0" in figure_svg(comparison(), "weights")


def test_outliers_are_drawn() -> None:
    """The longest of all samples is in the drawing, with its value."""
    assert "VGG-16, the longest of 600" in figure_svg(comparison(), "latency")


def test_a_rate_of_zero_is_told_and_not_drawn() -> None:
    """Where not even the lowest Poisson rate kept the bound, the row says none; nothing breaks on the log axis."""
    assert VGG.server is not None
    nothing = replace(VGG.server, highest_per_second=replace(VGG.server.highest_per_second, rounds=(0.0,)))
    svg = figure_svg(comparison(replace(VGG, server=nothing), RESNET), "rates")
    assert ">none<" in svg


def test_models_with_one_title_are_named_apart() -> None:
    """A variant has its name beside the title; two of one title and variant have their names in the repository."""
    again = replace(VGG, model="vgg16.again")
    assert labels([VGG, INT8, RESNET]) == ["VGG-16", "VGG-16 int8", "ResNet-50"]
    assert labels([VGG, again, RESNET]) == ["vgg16", "vgg16.again", "ResNet-50"]


def test_families_look_different_and_those_in_focus_always_the_same() -> None:
    """Five families have a colour and a shape of their own; VGG, ResNet and MobileNet the same on every page."""
    cards = crowd().cards
    found = {mark.family: mark for mark in marks(cards)}
    named = [mark for mark in found.values() if mark.family != "other families"]
    assert set(FOCUS) <= set(found)
    assert len({mark.paint for mark in named}) == len({mark.shape for mark in named}) == 5
    for card, mark in zip(cards, marks(cards), strict=True):
        if card.family in FOCUS:
            assert marks([card]) == [mark]


@pytest.mark.parametrize("cards", [(BARE,), (VGG,), (BARE, BARE), (replace(VGG, batches=(), server=None), MOBILENET)])
def test_a_page_is_made_of_whatever_was_measured(cards: tuple[object, ...]) -> None:
    """A card of which only the file is known, one single card, parts that are missing: there is a page, without None."""
    page = as_html(comparison(*cards))  # type: ignore[arg-type]  # parametrize knows objects
    assert "<table" in page
    assert not re.search(r">\s*(None|nan|inf)\b", page)


def test_names_are_free_text_and_stay_text() -> None:
    """A title that is markup is text on the page, in the drawings and in their names."""
    hostile = '<script>alert("1")</script>&\'"</title>'
    page = as_html(comparison(cost_card(hostile, hostile, family=hostile, variant=hostile), RESNET))
    assert "<script>alert" not in page
    assert page.count("<script>") == 2
    assert "&lt;script&gt;" in page


def test_shares_of_different_data_sets_are_not_put_side_by_side() -> None:
    """What was published on MNIST is no rival of what was published on ImageNet: the chart has the commonest alone."""
    mnist = replace(UNTRAINED, model="lenet5", title="LeNet-5", published=Published(99.05, None, "MNIST", "a paper"))
    others = [replace(UNTRAINED, model=name, title=name) for name in ("one", "two")]
    charts = {chart.name: chart for chart in all_charts(comparison(mnist, *others))}
    chart = charts["pareto-published"]
    assert "LeNet-5" not in str(chart.draw(508))
    assert "on ImageNet-1K alone" in chart.reading
