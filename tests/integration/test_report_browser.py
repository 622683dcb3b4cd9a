"""report.html and compare.html in a real browser, from disk: Chromium without a window, WebGL in software."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.report_run import make_run, make_training_log
from PIL import Image

from vecset.imaging.classes import class_colours, rgb
from vecset.report.compare import write_comparison
from vecset.report.page import write_html_report

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
from headless_chromium import MISSING, Browser

pytestmark = [pytest.mark.skipif(MISSING is not None, reason=MISSING or ""), pytest.mark.slow]
READY = "!['', 'no', undefined].includes(document.documentElement.dataset.ready)"
LARGE, TABLET, PHONE = (1400, 900), (800, 1000), (390, 780)


@pytest.fixture(scope="module")
def browser():
    with Browser() as started:
        yield started


@pytest.fixture(scope="module", params=[3, 7, 10, 41])
def report(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(f"classes{request.param}")
    truths = make_run(folder / "run", request.param, hearts=4)
    training = make_training_log(folder / "train", request.param)
    return request.param, write_html_report(folder / "run", training, truths.get)


def load(browser, path, size=LARGE):
    browser.console(), browser.requests()
    browser.size(*size)
    browser.open(path)
    browser.wait(READY)


def click(browser, selector):
    browser.run("document.querySelector(arguments[0]).click()", selector)


def scene_pixels(browser):
    """(H, W, 3) of the 3D view, without the names and buttons at its top, when it no longer changes."""
    last = None
    for _ in range(50):
        browser.settle()
        browser.wait("document.querySelector('.view').ariaBusy !== 'true'")
        browser.settle()
        picture = np.asarray(Image.open(io.BytesIO(browser.picture(".view .plot"))).convert("RGB")).astype(int)[40:]
        if last is not None and (picture == last).all():
            return picture
        last = picture
    raise AssertionError("the 3D view does not come to rest")


def drawn(picture):
    """Share of pixels of some colour: neither the white background nor the grey letters."""
    return (np.ptp(picture, axis=-1) > 25).mean()


def eyes(browser):
    """Where the camera of each scene stands, as plotly has it."""
    return browser.run("""const {layout} = document.querySelector(".view .plot");
        return Object.keys(layout).filter(key => /^scene/.test(key)).sort().map(key => layout[key].camera.eye)""")


def names(browser):
    return browser.run("return [...document.querySelectorAll('.view .names span')].map(e => e.textContent)")


def change(browser, selector, value, event="change"):
    script = "const e = document.querySelector(arguments[0]); e.value = arguments[1];"
    browser.run(script + "e.dispatchEvent(new Event(arguments[2]))", selector, value, event)


def test_it_opens_from_disk_in_silence_and_asks_for_nothing_else(browser, report):
    classes, path = report
    load(browser, path)
    assert browser.requests() == [path.as_uri()]
    assert browser.console() == []
    assert browser.run("return document.querySelectorAll('#means tbody tr').length") == classes + 2
    labels = browser.run("return [...document.querySelectorAll('#box-plot .ytick text')].map(e => e.textContent)")
    assert [label.split("  ")[-1][: len("structure 1")] for label in labels[:2]] == ["structure 1", "structure 2"]
    assert len(labels) == classes + 1 and labels[-1] == "union"
    assert browser.run("return document.querySelectorAll('#box-plot path.box').length") == classes + 1
    assert browser.run("return document.querySelectorAll('#box-plot path.point').length") >= 4 * classes
    assert browser.run("return document.querySelectorAll('#curves path.js-line').length") >= classes + 4
    assert browser.run("return document.querySelectorAll('.switches input[data-class]').length") == classes
    assert browser.run("return document.querySelectorAll('#slices .plane').length") == 3
    buttons = browser.run("return [...document.querySelectorAll('.modebar-btn')].map(e => e.dataset.title)")
    assert buttons and not any("hare" in title or "loud" in title for title in buttons)  # nothing leaves the page


def test_tables_sort_and_the_metric_is_chosen(browser, report):
    classes, path = report
    load(browser, path)
    first = "return [...document.querySelectorAll('#means tbody tr')].map(r => r.cells[{}].innerText.split('\\n')[0])"
    order = browser.run(first.format(0))
    click(browser, "#means thead th:nth-child(2) button")
    dice = [float(text) for text in browser.run(first.format(1))]
    assert dice[:classes] == sorted(dice[:classes])
    assert browser.run(first.format(0))[classes:] == order[classes:]  # mean and union stay last
    click(browser, "#means thead th:nth-child(2) button")
    assert [float(text) for text in browser.run(first.format(1))][:classes] == sorted(dice[:classes], reverse=True)
    assert browser.run("return document.querySelector('#means th[aria-sort]').ariaSort") == "descending"
    click(browser, "#means thead th:nth-child(1) button")
    assert browser.run(first.format(0)) == order  # 2 before 10
    shown = "return document.querySelector('#means th.aside').offsetParent !== null"
    assert not browser.run(shown)
    click(browser, "#all-columns")
    assert browser.run(shown)

    axis = "return document.querySelector('#box-plot .xtitle').textContent"
    assert browser.run(axis) == "Dice"
    change(browser, "#boxes select", "hd95_mm")
    browser.settle()
    assert browser.run(axis) == "HD95 (mm)"
    click(browser, "#every-heart summary")
    cell = "return document.querySelector('#hearts-table tbody td').textContent"
    before = browser.run(cell)
    change(browser, "#every-heart select", "hd95_mm")
    assert browser.run(cell) != before
    assert browser.run("return document.querySelectorAll('#hearts-table tbody tr').length") == 4
    assert browser.console() == []


def test_the_surfaces_are_drawn_in_both_views(browser, report):
    load(browser, report[1])
    picture = scene_pixels(browser)
    left, right = np.array_split(picture, 2, axis=1)
    assert 0.1 < drawn(left) < 0.9 and 0.1 < drawn(right) < 0.9
    seen = {tuple(c) for c in (picture[(picture < 250).any(-1)] // 16)}
    assert len(seen) > 20  # shaded, in several colours


def test_the_switches_work(browser, report):
    classes, path = report
    load(browser, path)
    everything = scene_pixels(browser)
    click(browser, "#all-off")
    assert drawn(scene_pixels(browser)) == 0
    click(browser, ".switches input[data-class='1']")
    one = scene_pixels(browser)
    assert 0 < drawn(one) < drawn(everything)
    colour = np.array(rgb(class_colours(classes)[0]))
    shown = np.median(one[np.ptp(one, axis=-1) > 25], axis=0)
    assert np.abs(shown / shown.max() - colour / colour.max()).max() < 0.15  # the colour of structure 1
    click(browser, "#all-on")
    assert (scene_pixels(browser) == everything).all()

    click(browser, "#colouring [data-value=error]")
    by_error = scene_pixels(browser)
    assert (by_error != everything).any(-1).mean() > 0.05
    scale = "return document.querySelector('.view .infolayer').textContent"
    assert "distance to the other surface (mm)" in browser.run(scale)
    change(browser, "#error-scale", 50)
    assert (scene_pixels(browser) != by_error).any()
    click(browser, "#colouring [data-value=structure]")
    assert (scene_pixels(browser) == everything).all()

    click(browser, "#layout [data-value=over]")
    thin_veil = scene_pixels(browser)
    assert names(browser) == ["truth (transparent) over reconstruction"]
    assert 0.05 < drawn(thin_veil) < 0.9
    change(browser, "#veil", 1, "input")
    assert (scene_pixels(browser) != thin_veil).any()
    click(browser, "#layout [data-value=side]")
    assert (scene_pixels(browser) == everything).all()
    assert names(browser) == ["truth", "reconstruction"]
    assert browser.console() == []


def test_all_views_have_one_camera(browser, report):
    load(browser, report[1])
    front, at_first = scene_pixels(browser), eyes(browser)
    click(browser, "#turns [data-value=left]")
    assert (scene_pixels(browser) != front).any()
    left = eyes(browser)
    assert left[0] == left[1] and left[0]["x"] < -1
    browser.run("document.querySelector('.view').dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}))")
    browser.settle()
    turned = eyes(browser)
    assert turned[0] == turned[1] != left[0]
    click(browser, "#turns [data-value=front]")
    assert (scene_pixels(browser) == front).all() and eyes(browser) == at_first

    place = "const r = document.querySelector('.view .plot'); r.scrollIntoView({block: 'center'});"
    x, y, width, height = browser.run(
        place + "const b = r.getBoundingClientRect(); return [b.x, b.y, b.width, b.height]"
    )
    browser.move(int(x + 0.25 * width), int(y + 0.5 * height))
    browser.move(int(x + 0.35 * width), int(y + 0.4 * height), down=True)
    dragged = scene_pixels(browser)
    assert all((d != f).any() for d, f in zip(np.array_split(dragged, 2, axis=1), np.array_split(front, 2, axis=1)))
    both = eyes(browser)
    assert both[0] == pytest.approx(both[1]) and both[0] != at_first[0]
    assert browser.console() == []


def test_other_hearts_other_slices_and_the_pointer(browser, report):
    classes, path = report
    load(browser, path)
    slice_of = "return document.querySelector('.plane[data-plane=axial] canvas').toDataURL()"
    first, scene = browser.run(slice_of), scene_pixels(browser)
    change(browser, ".plane[data-plane=axial] input[type=range]", 3, "input")
    assert browser.run(slice_of) != first
    marks = browser.run("return [...document.querySelectorAll('.slice span')].map(e => e.textContent)")
    assert "1" in marks or classes == 41
    click(browser, "#slice-numbers")
    assert browser.run("return document.querySelectorAll('.slice span').length") == 0

    worst = browser.run("return [...document.querySelectorAll('#hearts button')].map(e => e.dataset.value)")[-1]
    click(browser, f"#hearts [data-value='{worst}']")
    browser.wait(f"document.documentElement.dataset.ready === '{worst}'")
    assert (scene_pixels(browser) != scene).any()
    pressed = "return [...document.querySelectorAll('.hearts [aria-pressed=true]')].map(e => e.dataset.value)"
    assert browser.run(pressed) == [worst, worst]

    place = (
        "const r = document.querySelector(arguments[0]); r.scrollIntoView({block: 'center'});"
        "const b = r.getBoundingClientRect(); return [b.x, b.y, b.width, b.height]"
    )
    x, y, width, height = browser.run(place, ".view .plot")
    hover = "document.querySelector('.view .hovertext')?.textContent"
    browser.move(int(x + 0.24 * width), int(y + 0.5 * height))
    browser.move(int(x + 0.25 * width), int(y + 0.5 * height))
    browser.wait(hover)
    said = browser.run(f"return {hover}")
    assert "structure" in said and ("mm from the other surface" in said or "not in the other" in said)
    x, y, width, height = browser.run(place, ".plane[data-plane=coronal] .slice")
    browser.move(int(x + 0.5 * width), int(y + 0.5 * height))
    tip = browser.run("return document.getElementById('tip').hidden ? '' : document.getElementById('tip').textContent")
    assert "truth: " in tip and "difference: " in tip
    assert browser.console() == [] and browser.requests() == [path.as_uri()]


@pytest.mark.parametrize("size", [LARGE, TABLET, PHONE], ids=["large", "tablet", "phone"])
def test_nothing_is_wider_than_the_window(browser, report, size, tmp_path):
    load(browser, report[1], size)
    assert browser.run("return document.documentElement.scrollWidth") <= size[0]
    browser.screenshot(tmp_path / "whole.png", whole=True)
    picture = np.asarray(Image.open(tmp_path / "whole.png").convert("L"))
    assert picture.shape[1] == size[0] and picture.shape[0] > 2 * size[1] and picture.std() > 15
    cut = browser.run("""return [...document.querySelectorAll('button, h2, h3, .switches label, summary')]
        .filter(e => e.offsetParent && e.scrollWidth > e.clientWidth + 1 && e.clientWidth)
        .map(e => e.textContent)""")
    assert cut == []


def test_two_runs_side_by_side(browser, tmp_path):
    truths = make_run(tmp_path / "first", 7, hearts=4)
    make_run(tmp_path / "second", 7, hearts=4, extra=1)
    path = write_comparison(tmp_path / "first", tmp_path / "second", tmp_path, truths.get)
    load(browser, path)
    assert browser.requests() == [path.as_uri()] and browser.console() == []
    shown = "document.querySelector('#comparison table:not([hidden])')"
    assert browser.run(f"return {shown}.tBodies[0].rows.length") == 9
    assert browser.run("return document.querySelectorAll('#box-plot path.box').length") == 2 * 8
    row = f"return [...{shown}.tBodies[0].rows[0].cells].map(e => e.textContent)"
    dice = browser.run(row)
    assert dice[3].startswith("−")  # all of B's hearts are moved by a voxel more
    change(browser, "#table select", "hd95_mm")
    assert browser.run(row) != dice and browser.run(f"return {shown}.dataset.metric") == "hd95_mm"
    assert all(drawn(part) > 0.05 for part in np.array_split(scene_pixels(browser), 3, axis=1))
    assert names(browser) == ["truth", "A: first", "B: second"]
    click(browser, "#layout [data-value=over]")
    scene_pixels(browser)
    assert names(browser) == ["truth (transparent) over A: first", "truth (transparent) over B: second"]
    assert browser.run("return document.querySelectorAll('.plane[data-plane=axial] figure').length") == 5


def test_without_a_truth_there_is_one_view_and_no_error(browser, tmp_path):
    make_run(tmp_path, 3, hearts=1)
    load(browser, write_html_report(tmp_path))
    assert browser.console() == [] and drawn(scene_pixels(browser)) > 0.05
    assert names(browser) == ["reconstruction"]
    assert browser.run("return document.querySelector('#layout')") is None


def test_a_page_that_asks_for_something_would_be_seen(browser, tmp_path):
    """The checks above can fail: a page with a request and an error shows both."""
    (tmp_path / "bad.html").write_text("<img src='http://localhost:9/x.png'><script>console.error('broken')</script>")
    browser.console(), browser.requests()
    browser.open(tmp_path / "bad.html")
    assert "http://localhost:9/x.png" in browser.requests()
    assert any("broken" in line for line in browser.console())
