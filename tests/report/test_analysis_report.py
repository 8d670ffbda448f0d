"""Pages of an analysis."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.sr._concepts_dict import concepts

from alan.analysis import (
    AnalysisModel,
    BeatResult,
    Flag,
    LoopResult,
    Measure,
    ParcelEvidence,
    ViewEvidence,
    export_loop,
    write_tables,
)
from alan.analysis.dicom_report import _MEASURES
from alan.analysis.reference import write_agreement
from alan.analysis.results import SIMULATED_ONLY
from alan.analysis.tables import MEASURES, read_loops, read_patients
from alan.downstream.whitebox.prior import ParcelPrior
from alan.downstream.whitebox.segmenter import ParcelSegmenter
from alan.downstream.whitebox.selection import ParcelSelector
from alan.report import write_analysis_report
from alan.report.analysis import _patient_table, explain_terms
from alan.report.analysis_figures import loop_curve
from alan.report.html import _templates

from ..analysis.made import MadeLoop, made_labels, made_patient, made_result


def made_evidence(labels):
    """Parcels 1 and 2 halve the ventricle, 3 is the atrium, and a prior names 1 and 3."""
    maps = np.where(labels == 2, 3, labels).astype(np.uint8)
    maps[:, 45:70][labels[:, 45:70] == 1] = 2
    boxes = {}
    for name, inside in (("lv", [0, 90, 60, 0]), ("la", [0, 0, 0, 80])):
        prior = ParcelPrior(np.array(inside, float), 100.0 - np.array(inside), 5, name)
        box = ParcelSegmenter(ParcelSelector("beta", prior=prior))
        box.selector_ = ParcelSelector("beta", prior=prior).fit_prior()
        boxes[name] = (box, box)
    return ParcelEvidence(maps, boxes)


def write_folder(root, **changes):
    loop, labels = MadeLoop(), made_labels()
    result = made_result(loop, **changes)
    export_loop(root, loop, labels, result, ["overlay", "png"], evidence=made_evidence(labels))
    Image.fromarray(np.zeros((28, 84), np.uint8)).save(root / "loops" / "loop1" / "neighbours.png")
    left_out = LoopResult("loop2", "p1", "left out", reason="it shows <b>spectral Doppler</b>")
    for one in (result, left_out):
        one.to_json(root / "loops" / one.loop / "result.json")
    write_tables(root, [result, left_out], [made_patient()])
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = write_folder(tmp_path_factory.mktemp("analysis"))
    (root / "failures.csv").write_text("file,reason\nf3a9,ends early\n", encoding="utf-8")
    (root / "ef.csv").write_text("patient,ef_percent\np1,57\n", encoding="utf-8")
    write_agreement(root, [made_patient()], root / "ef.csv")
    write_analysis_report(root)
    return root


def page_of(path):
    """Text of a page, and its addresses."""

    class Parser(HTMLParser):
        def __init__(self):
            super().__init__()
            self.addresses, self.words, self.hidden = [], [], 0

        def handle_starttag(self, tag, attributes):
            self.hidden += tag == "style"
            self.addresses += [value for name, value in attributes if name in ("src", "href")]

        def handle_endtag(self, tag):
            self.hidden -= tag == "style"

        def handle_data(self, data):
            if not self.hidden:
                self.words.append(data)

    parser = Parser()
    parser.feed(path.read_text(encoding="utf-8"))
    return " ".join(" ".join(parser.words).split()), parser.addresses


def test_the_first_page_lists_numbers_doubts_and_omissions(folder):
    text, addresses = page_of(folder / "report.html")
    assert "1 loop of 1 patient was measured; 2 files or loops were left out." in text
    assert "was measured (single plane): 60%. 1 result is doubtful, for the reasons in the first rows." in text
    assert "60 55 to 65" in text
    assert "100 90 to 110" in text
    assert "low frame rate 1 the loop has 25 frames per second" in text
    assert "it shows <b>spectral Doppler</b>" in text
    assert "f3a9 ends early" in text
    assert "Mean bias, points 3.0" in text
    assert "not a medical device" in text
    assert "Simulated" not in text
    assert "patients/p1/report.html" in addresses
    assert [address for address in addresses if address[0] == "#"] == [
        "#patients",
        "#doubts",
        "#agreement",
        "#left-out",
    ]


@pytest.mark.parametrize(
    ("shipped", "words"),
    [
        (True, "in 93% of single planes and 94% of biplane measures"),
        (False, "How often those of this model contain the true value was not measured"),
    ],
)
def test_pages_state_the_measured_coverage_of_the_shipped_model_only(tmp_path, shipped, words):
    """A model of a user may have the name of the shipped one."""
    folder = write_folder(tmp_path)
    path = folder / "loops" / "loop1" / "result.json"
    result = json.loads(path.read_text())
    known = {"model_fingerprint": AnalysisModel.load("alan-sim").fingerprint} if shipped else {}
    result["provenance"] = {"model": "alan-sim", "model_fingerprint": "0" * 64, **known}
    path.write_text(json.dumps(result))
    write_analysis_report(folder)
    for page in (folder / "report.html", folder / "patients" / "p1" / "report.html"):
        text, _ = page_of(page)
        assert words in text
        assert ("93% of single" in text) == shipped


def test_pages_are_self_contained(folder):
    for path in (folder / "report.html", folder / "patients" / "p1" / "report.html"):
        _, addresses = page_of(path)
        source = path.read_text(encoding="utf-8")
        for address in addresses:
            if address.startswith("#"):
                assert f'id="{address[1:]}"' in source
            else:
                assert address.startswith("data:image/") or (path.parent / address).exists()
        assert sum(address.startswith("data:image/") for address in addresses) >= 2
        assert "<script" not in source
        assert "http" not in re.sub(r"data:[^\"]*", "", source)


def test_the_page_of_a_patient_shows_its_loops(folder):
    text, addresses = page_of(folder / "patients" / "p1" / "report.html")
    for words in (
        "LV ejection fraction (single plane A4C) 60 % 55 to 65",
        "Doubtful Single plane A4C, 1 beat. Loops: A4C: loop1 .",
        "2 of 3 neighbours.",
        "A4C: loop1",
        "A4C, 90% of the votes",
        "sim 3, sim 8",
        "20, 25 per second",
        "0.5 × 0.5 mm",
        "Volume of the left ventricle (ml)",
        "Red rings: 1 frame whose outline jumped",
        "1 regular 2 – 8 60 55 to 65",
        "2 incomplete 14 – 19 49",
        "Frame 2, end-diastole",
        "Pixel size from the file.",
        "alan-sim-small",
        "Left ventricle at end-diastole: 2 parcels, prior weight 100 pixels",
        "Nearest labelled frames, the most similar first.",
    ):
        assert words in text
    assert "../../loops/loop1/overlay.mp4" in addresses


def test_parcels_are_shown_with_prior_and_posterior(folder):
    text, _ = page_of(folder / "patients" / "p1" / "report.html")
    part = text[text.index("Left ventricle at end-diastole") : text.index("Left atrium at end-diastole")]
    # half of the ventricle each; 8 effective pixels of the prior and half a pixel of Jeffreys' on each side
    assert "1 yes 50 100 90 86" in part
    assert "2 yes 50 100 60 59" in part
    assert "No labelled image was counted." in text


def test_doubts_precede_numbers_and_notes_precede_folded_parcels(folder):
    path = folder / "patients" / "p1" / "report.html"
    text, _ = page_of(path)
    doubt, volume = text.index("2 of 3 neighbours"), text.index("LV end-diastolic volume")
    assert text.index("Doubtful") < doubt < volume
    assert text.index("Pixel size from the file.") < text.index("Parcels behind the outlines")
    assert "<details open" not in path.read_text(encoding="utf-8")


def test_simulated_loops_are_called_simulated(tmp_path):
    write_analysis_report(write_folder(tmp_path, simulated=True))
    for path in (tmp_path / "report.html", tmp_path / "patients" / "p1" / "report.html"):
        text, _ = page_of(path)
        assert "Simulated loops" in text
        assert "not exist" in text


def test_a_run_without_measurements_has_a_report(tmp_path):
    result = LoopResult("loop1", "p1", "left out", reason="one frame", flags=(Flag("still", "one frame"),))
    result.to_json(tmp_path / "loops" / "loop1" / "result.json")
    patient = made_patient(
        method="", loops=(), n_loops=1, n_beats=0, ef_percent=Measure(), edv_ml=Measure(), quality="none", flags=()
    )
    write_tables(tmp_path, [result], [patient])
    text, _ = page_of(write_analysis_report(tmp_path))
    assert "No loop was measured; 1 file or loop was left out." in text
    assert "No ejection fraction was measured" in text
    assert "Not measured – – 0 One frame." in text  # the patient's row states the reason
    text, _ = page_of(tmp_path / "patients" / "p1" / "report.html")
    assert "LV ejection fraction – Left out" in text.replace("Not measured ", "")
    assert "Not measured" in text
    assert "Left out: 1 file or loop" in text


def test_only_patients_with_a_measured_loop_are_counted(tmp_path):
    folder = write_folder(tmp_path)
    other = LoopResult("loop3", "p2", "left out", reason="the view is PLAX")
    other.to_json(folder / "loops" / "loop3" / "result.json")
    loops = [LoopResult.from_json(folder / "loops" / f"loop{n}" / "result.json") for n in (1, 2, 3)]
    unknown = made_patient(
        patient="p2", loops=(), ef_percent=Measure(), edv_ml=Measure(), quality="none", flags=()
    )
    write_tables(folder, loops, [made_patient(), unknown])
    text, _ = page_of(write_analysis_report(folder))
    assert "1 loop of 1 patient was measured; 2 files or loops were left out." in text
    assert re.search(r"p2 Not measured [^.]* The view is PLAX\.", text)


@pytest.mark.parametrize(("n", "tall"), [(60, False), (61, True)])
def test_a_long_table_scrolls_inside_the_page(n, tall):
    patients = [made_patient(patient=f"p{number}") for number in range(n)]
    found = _templates().get_template("macros.html.j2").module.table(_patient_table(patients))
    assert ('class="scroll tall"' in found) == tall
    assert found.count("<tr>") == n + 1


def test_unknown_volumes_have_no_column():
    known, unknown = made_patient(), made_patient(edv_ml=Measure())
    for patients, there in (([known, unknown], True), ([unknown], False)):
        titles = [column.title for column in _patient_table(patients).columns]
        assert ("LVEDV, ml" in titles) == ("LVESV, ml" in titles) == there
        assert all(len(row.cells) == len(titles) - 1 for row in _patient_table(patients).sections[0].rows)


def parasternal_folder(root, view="PLAX", **measures):
    """Results of one loop in a parasternal view, in a folder of its own."""
    loop, labels = MadeLoop(), made_labels()
    unknown = dict.fromkeys(("edv_ml", "esv_ml", "ef_percent"), Measure())
    result = replace(
        made_result(loop, view=ViewEvidence(view, 1.0), notes=(SIMULATED_ONLY,)), **unknown, **measures
    )
    beats = tuple(replace(beat, **unknown, **measures) for beat in result.beats)
    frames = tuple(replace(frame, volume_ml=None, length_cm=None) for frame in result.frames)
    result = replace(result, beats=beats, frames=frames)
    export_loop(root, loop, labels, result, ["overlay", "dicom"], evidence=made_evidence(labels))
    result.to_json(root / "loops" / "loop1" / "result.json")
    patient = replace(made_patient(method="parasternal"), **unknown, **measures)
    write_tables(root, [result], [patient])
    write_analysis_report(root)
    return root


def test_pages_of_parasternal_loops_show_their_measures_and_that_they_were_checked_on_simulated_loops(tmp_path):
    diameter, septum = Measure(5.04, 4.5, 5.6), Measure(0.93)
    root = parasternal_folder(tmp_path, lvidd_cm=diameter, ivsd_cm=septum)
    first, page = (page_of(root / name)[0] for name in ("report.html", "patients/p1/report.html"))
    assert "1 loop is in PLAX or PSAX. Parasternal outlines were checked on simulated loops only." in first
    assert "No ejection fraction was measured; it needs an apical view." in first
    assert "LVIDd, cm" in first
    assert "5.0 4.5 to 5.6" in first
    assert "LVEF" not in first
    assert page.count("Parasternal outlines were checked on simulated loops only.") == 2  # numbers and loop
    assert "LV internal diameter, end-diastole (LVIDd) 5.0 cm 4.5 to 5.6" in page
    assert "Septum, end-diastole (IVSd) 0.9 cm" in page
    assert "ejection fraction" not in page
    assert "Area of the left ventricle (cm²)" in page
    for text in (first, page):
        assert "measured on simulated loops only" in text
        assert "CAMUS" not in text
        assert "alan calibrate" not in text


def test_a_report_of_a_parasternal_loop_has_the_codes_of_its_measures(tmp_path):
    root = parasternal_folder(tmp_path, lvidd_cm=Measure(5.0, 4.5, 5.5), la_diameter_cm=Measure(3.5))
    file = pydicom.dcmread(root / "loops" / "loop1" / "measurements.dcm")
    texts = str(file)
    for code in ("29436-3", "29469-4"):
        assert code in texts
    assert "18043-0" not in texts  # ejection fraction
    assert "Parasternal outlines were checked on simulated loops only" in texts


def test_a_parasternal_patient_beside_apical_ones_shows_its_measures_on_the_first_page(tmp_path):
    root = parasternal_folder(tmp_path, lvidd_cm=Measure(5.04, 4.5, 5.6), area_change_percent=Measure(44.0))
    (known,) = read_patients(root)
    other = made_patient("p2", loops=())
    write_tables(root, list(read_loops(root)), [known, other])
    write_analysis_report(root)
    first = page_of(root / "report.html")[0]
    assert "LVEF, %" in first
    assert "parasternal LVIDd 5.0 cm, FAC 44%" in first
    assert "p1: LVIDd 5.0 cm, FAC 44%, doubtful" in first


def test_every_measure_has_a_code_of_the_dicom_standard():
    """Codes and meanings are those of the context groups that pydicom contains."""
    for name, (scheme, value, meaning, _) in _MEASURES.items():
        known = [
            code[0] for codes in concepts[scheme].values() for number, code in codes.items() if number == value
        ]
        assert {text.lower() for text in known} >= {meaning.lower()} or name == "heart_rate_bpm", name
    assert set(_MEASURES) == set(MEASURES) - {"shortening_percent"}


def test_the_curve_shows_areas_without_a_pixel_size():
    result = made_result()
    frames = tuple(replace(frame, volume_ml=None, area_cm2={}) for frame in result.frames)
    curve = loop_curve(replace(result, frames=frames))
    assert curve.title == "Area of the left ventricle (pixels)"
    assert [phase for _, _, phase in curve.marks] == ["ED", "ES", "ED", "ES"]
    heights = [float(point.split(",")[1]) for point in curve.lines[0].split()]
    assert heights == sorted(heights, reverse=True)
    assert len(heights) == 20
    assert all(curve.top <= height <= curve.bottom for height in heights)


def test_a_doubtful_result_is_marked_in_the_table(folder):
    assert '<span class="badge doubtful">Doubtful</span>' in (folder / "report.html").read_text(encoding="utf-8")


def test_names_of_phases_that_are_close_do_not_overlap():
    beats = (BeatResult(0, 1, 12, True), BeatResult(12, 18, None, False))
    curve = loop_curve(made_result(MadeLoop(n_frames=40), beats=beats))
    page = _templates().get_template("curve.html.j2").render(clip={"curve": curve})
    assert re.findall(r">(ED|ES)</text>", page) == ["ED", "ED", "ES"]
    assert [page.count(f'class="{mark}"') for mark in ("ed", "es")] == [2, 2]


def test_the_curve_has_gaps_where_nothing_was_measured():
    result = made_result()
    frames = [replace(frame, volume_ml=None if 5 <= frame.frame < 8 else 70.0) for frame in result.frames]
    curve = loop_curve(replace(result, frames=tuple(frames)))
    assert [len(line.split()) for line in curve.lines] == [5, 12]
    assert loop_curve(replace(result, frames=result.frames[:1])) is None


def test_ticks_of_frames_without_times_are_whole():
    result = made_result(MadeLoop())
    frames = tuple(replace(frame, time_s=None) for frame in result.frames[:3])
    assert [text for _, text in loop_curve(replace(result, beats=(), frames=frames)).x_ticks] == ["0", "1", "2"]


def test_a_wide_table_of_beats_shows_their_kind_beside_their_number(tmp_path):
    """The first column stays in sight where the others are scrolled."""
    root = parasternal_folder(tmp_path, lvidd_cm=Measure(5.0), lvids_cm=Measure(3.5))
    html = (root / "patients" / "p1" / "report.html").read_text()
    assert re.search(r'<th scope="row">1<span class="range">(regular|irregular|incomplete)</span></th>', html)


def test_doubtful_patients_come_first_with_their_reasons_below(tmp_path):
    folder = write_folder(tmp_path)
    patients = [
        made_patient("p1", quality="good", flags=()),
        made_patient("p2", quality="none", flags=()),
        made_patient("p3", quality="doubtful", flags=(Flag("low_frame_rate", "17 frames per second"),)),
    ]
    write_tables(folder, list(read_loops(folder)), patients)
    source = write_analysis_report(folder).read_text(encoding="utf-8")
    assert re.findall(r'<a href="patients/(p\d)/report.html">p\d</a>', source) == ["p3", "p2", "p1"]
    assert '<tr class="below"><td colspan="7"><div>17 frames per second.</div></td></tr>' in source


def test_only_abbreviations_of_the_table_are_explained():
    unknown = dict.fromkeys(("edv_ml", "esv_ml", "ef_percent"), Measure())
    plax = replace(made_patient(method="parasternal"), **unknown, lvidd_cm=Measure(5.0))
    for patients, terms in (
        ([made_patient()], {"LVEF", "LVEDV, LVESV"}),
        ([made_patient(edv_ml=Measure(), esv_ml=Measure())], {"LVEF"}),
        ([plax], {"LVIDd"}),
        ([plax, made_patient()], {"LVEF", "LVEDV, LVESV", "LVIDd"}),
    ):
        found = explain_terms(_patient_table(patients))
        assert set(re.findall(r"(?:^|\. )([A-Za-z, ]+):", found)) == terms


def test_the_page_of_a_patient_links_to_its_loops_and_names_those_not_used(tmp_path):
    folder = write_folder(tmp_path)
    write_tables(folder, list(read_loops(folder)), [made_patient(loops=("loop9",))])
    write_analysis_report(folder)
    text, addresses = page_of(folder / "patients" / "p1" / "report.html")
    assert "Other loops, not used: A4C: loop1 ." in text
    assert "A4C: loop1 (not used)" in text
    assert "#A4C-loop1" in addresses
