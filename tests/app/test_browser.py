"""The page in a real browser: upload, click a parcel, see the mask change, move ED, download."""

import io
import json
import os
import re
import shutil
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

from alan.analysis import AnalysisModel

pytestmark = pytest.mark.ui
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
#: Milliseconds for an action that runs a model.
LONG = 90_000


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page(browser, served):
    """A page; requests to other servers, errors of scripts and pictures without alternative text fail the test."""
    found = browser.new_page(viewport={"width": 1300, "height": 950})
    elsewhere, errors = [], []
    found.on("request", lambda request: elsewhere.append(request.url))
    found.on("pageerror", lambda error: errors.append(str(error)))
    found.goto(served.url)
    yield found
    shown = [image.get_attribute("alt") for image in found.locator("img").all() if image.is_visible()]
    found.close()
    assert [words for words in shown if not words or "undefined" in words] == []
    assert [url for url in elsewhere if not url.startswith((served.url, "data:", "blob:"))] == []
    assert errors == []


def files_below(root):
    """The names of all files; folders that the page deletes meanwhile are passed over."""
    return [name for _, _, names in os.walk(root) for name in names]


def text(page, name):
    return page.locator(f"#{name} [data-testid=markdown]").inner_text().strip()


def changed(page, name, before):
    """Wait until a text differs, and return it."""
    page.wait_for_function(
        "([place, before]) => document.querySelector(place).innerText.trim() !== before",
        arg=[f"#{name} [data-testid=markdown]", before],
        timeout=LONG,
    )
    return text(page, name)


def picture(page):
    """The picture of the parcels as an array."""
    image = page.locator("#parcels-picture img").first
    return np.array(Image.open(io.BytesIO(image.screenshot())).convert("RGB"), np.int16)


def upload(page, name, path):
    with page.expect_file_chooser() as chooser:
        page.locator(f"#{name}").click()
    chooser.value.set_files(path)


def open_parcels(page):
    page.get_by_role("tab", name="Parcels").click()
    page.locator("#parcels-example").click()
    page.locator("#parcels-picture img").first.wait_for(timeout=LONG)


def scroll_to(page, row):
    """Scroll the table of parcels to a row; the page holds no others than those in sight."""
    page.locator("#parcels-table").hover()
    for _ in range(30):
        if row.count():
            break
        page.mouse.wheel(0, 150)
        page.wait_for_timeout(200)
    return row.first


def click_at(page, across, down):
    image = page.locator("#parcels-picture img").first
    box = image.bounding_box()
    image.click(position={"x": box["width"] * across, "y": box["height"] * down})


def test_a_click_on_a_parcel_changes_the_outline(page, tmp_path):
    open_parcels(page)
    before, first = text(page, "parcels-numbers"), picture(page)
    assert re.search(
        r"left ventricle at end-diastole: \d+\.\d% of the picture, Dice 0\.\d+, \d+ parcels in\s+"
        r"Loop: EDV \d+ ml, ESV \d+ ml, EF \d+%",
        before,
    )
    click_at(page, 0.4, 0.57)  # a parcel at the border of the cavity: out
    after = changed(page, "parcels-numbers", before)
    assert dice(after) != dice(before)
    page.wait_for_timeout(500)
    assert (np.abs(picture(page) - first).max(2) > 20).mean() > 0.003
    with page.expect_download() as download:
        page.locator("#parcels-save").click()
    opinion = json.loads(download.value.path().read_text())
    assert [row["opinion"] for row in opinion["parcels"]] == ["never"]
    page.locator("#parcels-undo").click()
    assert changed(page, "parcels-numbers", after) == before
    page.get_by_label("median").click()  # a step of the post-processing
    stepped = changed(page, "parcels-numbers", before)
    page.locator("#parcels-undo").click()
    assert changed(page, "parcels-numbers", stepped) == before
    number = page.get_by_text(str(opinion["parcels"][0]["id"]), exact=True)
    scroll_to(page, page.locator("#parcels-table [data-col='0']").filter(has=number)).click()  # by its row
    page.wait_for_timeout(1500)
    page.locator("#parcels-turn").click()
    assert changed(page, "parcels-numbers", before) == after
    page.locator("#parcels-undo").click()
    changed(page, "parcels-numbers", after)
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(opinion))
    upload(page, "parcels-load", file)
    assert changed(page, "parcels-numbers", before) == after


def test_each_phase_has_a_list_that_analyze_accepts(page, loop, tmp_path):
    """The page edits the list of each phase, and `alan analyze` takes what it saves."""
    open_parcels(page)
    ed = text(page, "parcels-numbers")
    assert ed.startswith("left ventricle at end-diastole: ")
    page.get_by_label("End-systole", exact=True).first.check()
    es = changed(page, "parcels-numbers", ed)
    assert es.startswith("left ventricle at end-systole: ")
    assert share(es) < share(ed)  # the frame of end-systole is shown, with the list of its phase
    click_at(page, 0.5, 0.3)  # a parcel at the border of the cavity: out
    changed(page, "parcels-numbers", es)
    with page.expect_download() as download:
        page.locator("#parcels-save").click()
    assert download.value.suggested_filename == "lv-ES-opinion.json"
    saved = tmp_path / "saved.json"
    download.value.save_as(saved)
    ((parcel, word),) = [(row["id"], row["opinion"]) for row in json.loads(saved.read_text())["parcels"]]
    plain, edited = (AnalysisModel.load("alan-sim", opinions=given).boxes["lv"] for given in ([], [saved]))
    assert (parcel in edited.es.selector_.interior_) == (word == "inside")
    assert (parcel in plain.es.selector_.interior_) != (word == "inside")
    np.testing.assert_array_equal(edited.ed.selector_.interior_, plain.ed.selector_.interior_)


def test_the_white_boxes_of_a_further_model_are_edited_in_its_view(page, tmp_path):
    open_parcels(page)
    apical = text(page, "parcels-numbers")
    page.locator("#parcels-view").get_by_label("PSAX", exact=True).check()
    short = changed(page, "parcels-numbers", apical)
    assert re.search(r"Loop: fractional area change \d+%, wall thickness \d\.\d cm", short)
    assert "left atrium" not in page.locator("#parcels-structure").inner_text()
    page.locator("#parcels-view").get_by_label("PLAX", exact=True).check()
    before = changed(page, "parcels-numbers", short)
    assert re.search(r"Loop: LVIDd \d\.\d cm, LVIDs \d\.\d cm, fractional shortening \d+%", before)
    assert "left atrium" in page.locator("#parcels-structure").inner_text()
    page.locator("#parcels-table [data-col='0']").first.click()  # the parcel that lies most surely inside: out
    page.wait_for_timeout(1500)
    page.locator("#parcels-turn").click()
    after = changed(page, "parcels-numbers", before)
    with page.expect_download() as download:
        page.locator("#parcels-save").click()
    assert download.value.suggested_filename == "PLAX-lv-ED-opinion.json"
    saved = tmp_path / "saved.json"
    download.value.save_as(saved)
    page.locator("#parcels-undo").click()
    assert changed(page, "parcels-numbers", after) == before
    page.locator("#parcels-view").get_by_label("A4C", exact=True).check()
    assert changed(page, "parcels-numbers", before) == apical
    upload(page, "parcels-load", saved)
    page.locator(".toast-body").filter(has_text="the opinions on PLAX were loaded").first.wait_for(timeout=LONG)
    page.locator("#parcels-view").get_by_label("PLAX", exact=True).check()
    assert changed(page, "parcels-numbers", apical) == after


def share(words):
    return float(re.search(r": ([\d.]+)% of the picture", words)[1])


def dice(words):
    return float(re.search(r"Dice (\S+),", words)[1])


def test_an_uploaded_loop_can_be_edited(page, loop, served):
    page.get_by_role("tab", name="Parcels").click()
    upload(page, "parcels-upload", loop)
    page.locator("#parcels-picture img").first.wait_for(timeout=LONG)
    words = text(page, "parcels-numbers")
    assert "Dice" not in words  # there is no reference
    assert re.search(r"Loop: EF \d+%", words)
    assert re.search(r"recognised by \d+% of the votes", page.locator("#parcels-view").inner_text())
    page.locator("#parcels-spacing input").fill("0.5")
    page.locator("#parcels-spacing input").press("Enter")
    assert re.search(r"Loop: EDV \d+ ml, ESV \d+ ml, EF \d+%", changed(page, "parcels-numbers", words))
    assert not [name for name in files_below(served.root) if name.endswith(".mp4")]  # deleted once it was read


def test_a_file_that_is_not_a_loop_is_refused(page, tmp_path):
    page.get_by_role("tab", name="Parcels").click()
    (tmp_path / "notes.txt").write_text("no picture")
    upload(page, "parcels-upload", tmp_path / "notes.txt")
    page.locator(".toast-body").first.wait_for(timeout=LONG)
    assert "notes" not in page.locator(".toast-body").first.inner_text()


def test_an_uploaded_loop_is_measured(page, loop):
    page.locator("#analyze-upload input[type=file]").set_input_files(loop)
    page.locator("#analyze-curve img").wait_for(timeout=LONG)
    page.locator("#analyze-video video").wait_for(timeout=LONG)
    before = text(page, "analyze-moved")
    rows = [row.inner_text().split("\t") for row in page.locator("#analyze-table tr").all()]
    assert rows[0] == ["Measure", "Value (nominal 90% interval)"]
    assert re.fullmatch(r"\d+ \(\d+ to \d+\)", dict(rows)["LV ejection fraction, %"])
    assert re.match(r"Between these frames: EF -?\d+%, fractional area change -?\d+%", before)
    number = page.locator("#analyze-ed input[type=number]")
    number.fill(page.locator("#analyze-es input[type=number]").input_value())
    number.press("Enter")
    moved = "Between these frames: EF 0%, fractional area change 0%"
    assert changed(page, "analyze-moved", before) == moved
    for name in ("analyze-ed-picture", "analyze-es-picture"):
        page.locator(f"#{name} img").wait_for(timeout=LONG)
    page.locator("#analyze-spacing input").fill("0.5")
    page.locator("#analyze-spacing input").press("Enter")
    assert re.match(r"Between these frames: EDV \d+ ml, ESV \d+ ml, EF 0%", changed(page, "analyze-moved", moved))
    number.fill("")
    toast = page.locator(".toast-body").filter(has_text="the number is empty: enter one from 0 to 23")
    toast.first.wait_for(timeout=LONG)
    with page.expect_download() as download:
        page.locator("#analyze-save").click()
    with zipfile.ZipFile(download.value.path()) as packed:
        names = packed.namelist()
        content = b"".join(packed.read(name) for name in names if name.endswith((".csv", ".json", ".yaml")))
    assert {"report.html", "patients.csv", "loops.csv", "beats.csv", "frames.csv"} <= set(names)
    assert any(name.endswith("overlay.mp4") for name in names)
    assert b"Jane" not in content


def test_too_large_and_several_files_are_refused_before_they_are_sent(page):
    said = []
    page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.accept()))
    field = page.locator("#analyze-upload input[type=file]")
    field.evaluate(  # a file of this size without its content
        """field => {
            const file = new File(["a"], "large.mp4");
            Object.defineProperty(file, "size", {value: 1200 * 1048576});
            Object.defineProperty(field, "files", {value: [file], configurable: true});
            field.dispatchEvent(new Event("change", {bubbles: true}));
            Object.defineProperty(field, "files", {value: [new File(["a"], "a"), new File(["b"], "b")]});
            field.dispatchEvent(new Event("change", {bubbles: true}));
        }"""
    )
    assert said == [
        "The file has 1200 MB: the page takes at most 1000 MB; use alan analyze",
        "2 files are given: the page takes one at a time; for a folder use alan analyze",
    ]


def test_a_loop_that_cannot_be_decoded_is_refused_without_a_path_of_the_server(page, served, tmp_path):
    (tmp_path / "empty.mp4").touch()
    page.locator("#analyze-upload input[type=file]").set_input_files(tmp_path / "empty.mp4")
    words = "nothing can be measured: the file is empty; get the file again, or export it again"
    assert changed(page, "analyze-doubts", "") == words


def test_networks_segment_an_uploaded_loop(page, loop):
    page.get_by_role("tab", name="Models").click()
    upload(page, "model-0-upload", loop)
    page.locator("#model-0-picture img").first.wait_for(timeout=LONG)
    assert "left atrium" in text(page, "model-0-numbers")
    with page.expect_download() as download:
        page.locator("#model-0-save").click()
    with Image.open(download.value.path()) as mask:
        assert mask.size == (208, 160)
        assert mask.mode == "P"
        assert set(np.unique(np.array(mask))) <= {0, 1, 2}


def test_closing_the_page_deletes_its_files(browser, served):
    found = browser.new_page()
    found.goto(served.url)
    open_parcels(found)
    assert files_below(served.root)
    found.close()
    for _ in range(300):
        if not files_below(served.root):
            break
        time.sleep(0.1)
    assert not files_below(served.root)


def test_views_of_an_uploaded_loop_are_recognised(page, loop):
    page.get_by_role("tab", name="Views").click()
    upload(page, "views-upload", loop)
    page.locator("#views-nearest img").first.wait_for(timeout=LONG)
    assert re.match(r"\w+( \(unsure\))?; votes: \w+ \d+%", text(page, "views-words"))
    assert "this loop" in page.locator("#views-nearest").inner_text()
