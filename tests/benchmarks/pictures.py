"""Pictures of the documentation that show the shipped model on simulated patients: contact sheet, report, page.

python tests/benchmarks/pictures.py

needs the extra ui, Playwright and Chromium, and prints the true ejection fraction of the patient of the report.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image

from alan.analysis import AnalysisModel
from alan.analysis.overlay import write_mp4
from alan.cli.analyze import analyze
from alan.data.sample import PARASTERNAL
from alan.data.simulator import simulate_sequence
from alan.downstream.run import run_segmentation
from alan.downstream.sheet import contact_sheet
from alan.drawing import png
from alan.files import write_bytes
from alan.shipped import PARCELS

IMAGES = Path(__file__).parents[2] / "docs" / "images"
VIEWS = ("A4C", "A2C")
#: Seeds of patients that no training has seen: of the contact sheet (the first), of the report, of the page.
SHEET, REPORT, PAGE = 900_001, 900_102, 900_103
#: Milliseconds for an action that runs a model.
LONG = 120_000


def stills_sheet(folder):
    """Segment a still of twelve patients."""
    (folder / "stills").mkdir()
    for n in range(12):
        view = VIEWS[n % 2]
        frames = simulate_sequence(view, SHEET + n, n_frames=4, size=320, seed=SHEET + n).frames
        Image.fromarray(frames[0]).save(folder / "stills" / f"{n:02d}_{view}.png")
    run_segmentation(str(folder / "stills"), str(folder / "segments"))
    shutil.copy(folder / "segments" / "contact_sheet.png", IMAGES / "afternoon_sheet.png")


def parasternal_sheet():
    """Outline the end-diastolic and the end-systolic frame of six patients in PLAX and PSAX."""
    model, pictures, labels, names = AnalysisModel.load("alan-sim"), [], [], []
    for view in PARASTERNAL:
        for n in range(6):
            clip = simulate_sequence(view, SHEET + n, n_frames=6, seed=SHEET + n, systole_only=True)
            frames, own = clip.frames[[clip.ed, clip.es]], model.of(view)
            maps, phase = own.maps(frames), np.array([1.0, 0.0])
            pictures += list(frames)
            labels += list(own.label(own.score(maps, view, phase), maps, view))
            names += [f"{view} {n + 1}, {phase}" for phase in ("ED", "ES")]
    write_bytes(IMAGES / "parasternal_sheet.png", png(contact_sheet(pictures, labels, names, ("lv", "myo", "la"))))


def report(folder, browser):
    """Measure both views of a patient."""
    (folder / "loops").mkdir()
    for view in VIEWS:
        loop = simulate_sequence(view, REPORT, n_frames=64, beats=2.4, size=(240, 320), seed=REPORT)
        rows, columns = loop.spacing_mm
        image = nibabel.Nifti1Image(loop.frames.transpose(2, 1, 0)[:, :, None], np.eye(4))
        image.header.set_zooms((columns, rows, 1.0, 1 / loop.fps))
        image.header.set_xyzt_units("mm", "sec")
        nibabel.save(image, folder / "loops" / f"patient_{view}.nii.gz")
        print(f"{view}: true ejection fraction {loop.ef_percent:.0f}%")
    analyze([str(folder / "loops")], str(folder / "results"), patient="(?P<patient>patient)", workers=1)
    (page,) = (folder / "results" / "patients").glob("*/report.html")
    shown = browser.new_page(viewport={"width": 930, "height": 1620})
    shown.goto(page.resolve().as_uri())
    shown.screenshot(path=IMAGES / "analysis_report.png")


def page(folder, browser):
    """Open the page, upload a loop, and show the example on the tab of the parcels."""
    from alan.app.page import build_page, serve
    from alan.app.session import Uploads

    path = folder / "ui_loop.mp4"
    loop = simulate_sequence("A4C", PAGE, n_frames=60, beats=2.2, size=(480, 512), seed=PAGE)
    with write_mp4(path, loop.frames.shape[1:], loop.fps) as write:
        for frame in loop.frames:
            write(np.repeat(frame[..., None], 3, axis=2))
    (folder / "page").mkdir()
    uploads = Uploads(folder / "page")
    built = build_page(uploads, model="alan-sim", parcels=PARCELS, white_boxes=(), networks=(), size=112)
    shown = browser.new_page(viewport={"width": 1300, "height": 950})
    shown.goto(serve(built, "127.0.0.1", 0, browser=False))
    shown.locator("#analyze-upload input[type=file]").set_input_files(path)
    shown.locator("#analyze-es-picture img").wait_for(timeout=LONG)
    shown.locator("#analyze-video video").wait_for(timeout=LONG)
    shown.wait_for_timeout(2000)
    shown.screenshot(path=IMAGES / "ui_analyze.png", full_page=True)
    shown.get_by_role("tab", name="Parcels").click()
    shown.locator("#parcels-example").click()
    shown.locator("#parcels-picture img").first.wait_for(timeout=LONG)
    shown.wait_for_timeout(2000)
    shown.screenshot(path=IMAGES / "ui_parcels.png", full_page=True)
    built.close(verbose=False)


def make_small(path):
    """Keep 256 colours of a picture, and at most 1400 pixels per row."""
    picture = Image.open(path).convert("RGB")
    picture.thumbnail((1400, 4000))
    picture.quantize(256).save(path, optimize=True)


def main():
    argparse.ArgumentParser(description=__doc__).parse_args()
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        stills_sheet(Path(name))
        report(Path(name), browser)
        page(Path(name), browser)
        browser.close()
    parasternal_sheet()
    for name in ("afternoon_sheet", "parasternal_sheet", "analysis_report", "ui_analyze", "ui_parcels"):
        make_small(IMAGES / f"{name}.png")


if __name__ == "__main__":
    main()
