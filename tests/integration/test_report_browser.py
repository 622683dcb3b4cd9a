"""report.html and compare.html in a real browser, from disk: Chromium without a window, WebGL in software."""

import base64

import numpy as np
import pytest
from helpers.headless_chromium import MISSING, Browser
from helpers.report_run import make_run, make_training_log
from PIL import Image

from vecset.imaging.classes import class_colours
from vecset.report.compare import write_comparison
from vecset.report.page import write_html_report

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
    """(H, W, 3) of the 3D view, top row first, as it is drawn now."""
    width, height, values = browser.run("""
        const {scene, draw} = vecsetScene, {gl, canvas} = scene;
        draw();
        const all = new Uint8Array(4 * canvas.width * canvas.height);
        gl.readPixels(0, 0, canvas.width, canvas.height, gl.RGBA, gl.UNSIGNED_BYTE, all);
        let text = "";
        for (let k = 0; k < all.length; k += 8192) text += String.fromCharCode(...all.subarray(k, k + 8192));
        return [canvas.width, canvas.height, btoa(text)];""")
    raw = np.frombuffer(base64.b64decode(values), np.uint8)
    return raw.reshape(height, width, 4)[::-1, :, :3].astype(int)


def drawn(picture):
    """Share of pixels that are not the white background."""
    return (picture < 250).any(-1).mean()


def test_it_opens_from_disk_in_silence_and_asks_for_nothing_else(browser, report):
    classes, path = report
    load(browser, path)
    assert browser.requests() == [path.as_uri()]
    assert browser.console() == []
    assert browser.run("return document.querySelectorAll('#means tbody tr').length") == classes + 2
    boxes = browser.run("return [...document.querySelectorAll('#box-plot g.box')].map(g => g.dataset.class)")
    assert boxes == [f"structure {c}" for c in range(1, classes + 1)] + ["union"]
    assert browser.run("return document.querySelectorAll('#box-plot g.box circle').length") >= 3 * classes
    assert browser.run("return document.querySelectorAll('#curves path.curve').length") >= classes + 4
    assert browser.run("return document.querySelectorAll('.switches input[data-class]').length") == classes
    assert browser.run("return document.querySelectorAll('#slices .plane').length") == 3


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
    colour = np.array([int(class_colours(classes)[0][i : i + 2], 16) for i in (1, 3, 5)])
    shown = np.median(one[(one < 240).any(-1)], axis=0)
    assert np.abs(shown / shown.max() - colour / colour.max()).max() < 0.12  # the colour of structure 1
    click(browser, "#all-on")
    assert (scene_pixels(browser) == everything).all()

    click(browser, "#colouring [data-value=error]")
    by_error = scene_pixels(browser)
    assert (by_error != everything).any(-1).mean() > 0.05
    assert browser.run("return document.querySelector('.scale').textContent").startswith("distance to the other")
    browser.run("const i = document.getElementById('error-scale'); i.value = 50; i.dispatchEvent(new Event('change'))")
    assert (scene_pixels(browser) != by_error).any()
    click(browser, "#colouring [data-value=structure]")

    click(browser, "#layout [data-value=over]")
    names = "return [...document.querySelectorAll('.view .name')].map(e => e.textContent)"
    assert browser.run(names) == ["truth (veil) over reconstruction"]
    thin_veil = scene_pixels(browser)
    assert 0.05 < drawn(thin_veil) < 0.9
    browser.run("const v = document.getElementById('veil'); v.value = 1; v.dispatchEvent(new Event('input'))")
    assert (scene_pixels(browser) != thin_veil).any()
    click(browser, "#layout [data-value=side]")
    assert browser.run(names) == ["truth", "reconstruction"]
    assert (scene_pixels(browser) == everything).all()
    assert browser.console() == []


def test_other_hearts_other_slices_and_the_pointer(browser, report):
    classes, path = report
    load(browser, path)
    slice_of = "return document.querySelector('.plane[data-plane=axial] canvas').toDataURL()"
    first, scene = browser.run(slice_of), scene_pixels(browser)
    browser.run(
        "const s = document.querySelector('.plane[data-plane=axial] input[type=range]');"
        "s.value = 3; s.dispatchEvent(new Event('input'))"
    )
    assert browser.run(slice_of) != first
    marks = browser.run("return [...document.querySelectorAll('.slice span')].map(e => e.textContent)")
    assert "1" in marks or classes == 41
    click(browser, "#slice-numbers")
    assert browser.run("return document.querySelectorAll('.slice span').length") == 0

    worst = browser.run("return [...document.querySelectorAll('#hearts button')].map(e => e.dataset.value)")[-1]
    click(browser, f"#hearts [data-value='{worst}']")
    browser.wait(f"document.documentElement.dataset.ready === '{worst}'")
    assert (scene_pixels(browser) != scene).any()

    place = (
        "const r = document.querySelector(arguments[0]); r.scrollIntoView({block: 'center'});"
        "const b = r.getBoundingClientRect(); return [b.x, b.y, b.width, b.height]"
    )
    tip = "return document.getElementById('tip').hidden ? '' : document.getElementById('tip').textContent"
    x, y, width, height = browser.run(place, ".view")
    browser.move(int(x + 0.25 * width), int(y + 0.5 * height))
    assert "structure" in browser.run(tip)
    assert "mm from the other surface" in browser.run(tip) or "not in the other" in browser.run(tip)
    before = scene_pixels(browser)
    browser.move(int(x + 0.35 * width), int(y + 0.4 * height), down=True)
    assert (scene_pixels(browser) != before).any()  # turned
    x, y, width, height = browser.run(place, ".plane[data-plane=coronal] .slice")
    browser.move(int(x + 0.5 * width), int(y + 0.5 * height))
    assert "truth: " in browser.run(tip) and "difference: " in browser.run(tip)
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
    assert browser.run("return document.querySelectorAll('#comparison tbody tr').length") == 9
    assert browser.run("return document.querySelectorAll('#box-plot g.box[data-run=\"1\"]').length") == 8
    row = "return [...document.querySelector('#comparison tbody tr').cells].map(e => e.textContent)"
    dice = browser.run(row)
    assert dice[3].startswith("−")  # all of B's hearts are moved by a voxel more
    browser.run(
        "const s = document.querySelector('#table select'); s.value = 'hd95_mm';s.dispatchEvent(new Event('change'))"
    )
    assert browser.run(row) != dice
    names = "return [...document.querySelectorAll('.view .name')].map(e => e.textContent)"
    assert browser.run(names) == ["truth", "A: first", "B: second"]
    assert all(drawn(part) > 0.05 for part in np.array_split(scene_pixels(browser), 3, axis=1))
    click(browser, "#layout [data-value=over]")
    assert browser.run(names) == ["truth (veil) over A: first", "truth (veil) over B: second"]
    assert browser.run("return document.querySelectorAll('.plane[data-plane=axial] figure').length") == 5


def test_without_a_truth_there_is_one_view_and_no_error(browser, tmp_path):
    make_run(tmp_path, 3, hearts=1)
    load(browser, write_html_report(tmp_path))
    assert browser.console() == [] and drawn(scene_pixels(browser)) > 0.05
    assert browser.run("return document.querySelector('#layout').offsetParent") is None


def test_a_page_that_asks_for_something_would_be_seen(browser, tmp_path):
    """The checks above can fail: a page with a request and an error shows both."""
    (tmp_path / "bad.html").write_text("<img src='http://localhost:9/x.png'><script>console.error('broken')</script>")
    browser.console(), browser.requests()
    browser.open(tmp_path / "bad.html")
    assert "http://localhost:9/x.png" in browser.requests()
    assert any("broken" in line for line in browser.console())
