"""Measures, doubts and patients of parasternal views, and models that measure them beside another one."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import alan.analysis.timeline
from alan.analysis import (
    AnalysisModel,
    Flag,
    LoopSettings,
    Manifest,
    Measure,
    ViewEvidence,
    analyze_loop,
    export_model,
)
from alan.analysis.exports import median_beat
from alan.analysis.measures import PARASTERNAL_MEASURES, SIZED, Grid, measure_beat, measure_curves
from alan.analysis.patients import summarise_patients
from alan.analysis.quality import find_flags, open_share, serious
from alan.analysis.results import SIMULATED_ONLY, LoopResult
from alan.analysis.tables import MEASURES, read_patients, write_tables
from alan.analysis.timeline import Timeline, settle_beats
from alan.analysis.views import ViewBank, ViewResult
from alan.cardiac import Beat, linear_mass_g
from alan.data.simulator import simulate_sequence
from alan.downstream.whitebox.opinion import ExpertOpinion, Opinion
from alan.errors import DataError, ParameterError
from alan.shipped import folders

from .test_loop_analysis import MapModel, made_loop
from .test_measures import ellipse, evidence, key_masks, loop_result
from .test_timeline import BlockModel, beating

BEAT = Beat(0, 1, None, regular=True)
APICAL = set(MEASURES) - {*PARASTERNAL_MEASURES["PLAX"], "wall_thickness_cm", "heart_rate_bpm"}


def long_axis(heights=(50, 40), septum=(9, 12), posterior=(11, 14)):
    """Masks (2, 112, 112) of PLAX at end-diastole and end-systole, in pixels of 1 mm; the atrium grows to 34."""
    masks = {name: np.zeros((2, 112, 112), bool) for name in ("lv", "myo", "la")}
    for t, (height, above, below) in enumerate(zip(heights, septum, posterior, strict=True)):
        masks["lv"][t, 30 : 30 + height, 10:70] = True
        masks["myo"][t, 30 - above : 30, 10:70] = True
        masks["myo"][t, 30 + height : 30 + height + below, 10:70] = True
        masks["la"][t, 50 : 80 + 4 * t, 72:104] = True
    return masks


def short_axis():
    """Masks (2, 112, 112) of PSAX, in pixels of 1 mm: rings around circles of 50 and 40 mm."""
    cavity = np.stack([ellipse(50, 50), ellipse(40, 40)])
    return {"lv": cavity, "myo": np.stack([ellipse(70, 70), ellipse(66, 66)]) & ~cavity}


def of_view(view, masks, pixel_mm=(1.0, 1.0)):
    return measure_beat(BEAT, masks, Grid((1.0, 1.0), pixel_mm, view=view))


def known(numbers):
    return {name for name, value in vars(numbers).items() if math.isfinite(value)}


def test_dimensions_of_a_long_axis_view_by_hand():
    found = of_view("PLAX", long_axis())
    assert (found.lvidd_cm, found.lvids_cm) == pytest.approx((5.0, 4.0), abs=0.03)
    assert (found.ivsd_cm, found.lvpwd_cm) == pytest.approx((0.9, 1.1), abs=0.03)
    assert found.fractional_shortening_percent == pytest.approx(20, abs=0.5)
    assert found.lv_mass_linear_g == pytest.approx(0.8 * 1.04 * (7.0**3 - 5.0**3) + 0.6, rel=0.02)
    assert found.lv_mass_linear_g == pytest.approx(linear_mass_g(found.ivsd_cm, found.lvidd_cm, found.lvpwd_cm))
    assert found.la_diameter_cm == pytest.approx(3.4, abs=0.03)
    assert known(found) == set(PARASTERNAL_MEASURES["PLAX"])


def test_the_ring_of_a_short_axis_view_by_hand():
    found = of_view("PSAX", short_axis())
    assert found.area_change_percent == pytest.approx(100 * (1 - 40**2 / 50**2), abs=1)
    assert found.wall_thickness_cm == pytest.approx(1.0, abs=0.03)
    assert known(found) == set(PARASTERNAL_MEASURES["PSAX"])
    assert math.isnan(of_view("PSAX", {"lv": short_axis()["lv"]}).wall_thickness_cm)


def test_apical_views_have_none_of_these_measures():
    assert known(of_view("A4C", long_axis())) == APICAL


def test_without_a_pixel_size_only_the_area_change_is_measured():
    assert known(of_view("PLAX", long_axis(), None)) == set()
    assert "area_change_percent" in known(of_view("PSAX", short_axis(), None))
    assert set(PARASTERNAL_MEASURES["PLAX"]) | {"wall_thickness_cm"} <= set(SIZED)


def test_an_atrium_that_the_sector_cuts_off_has_no_diameter():
    masks, inside = long_axis(), np.ones((112, 112), bool)
    found = measure_beat(BEAT, masks, Grid((1.0, 1.0), (1.0, 1.0), inside=inside, view="PLAX"))
    assert math.isfinite(found.la_diameter_cm)
    inside[:, 90:] = inside[80:] = False  # a half of its outline
    masks["la"] &= inside
    found = measure_beat(BEAT, masks, Grid((1.0, 1.0), (1.0, 1.0), inside=inside, view="PLAX"))
    assert math.isnan(found.la_diameter_cm)


def test_curves_of_parasternal_views_have_no_volume_and_no_length():
    masks, grid = long_axis()["lv"], Grid((1.0, 1.0), (1.0, 1.0), view="PLAX")
    curves = measure_curves(masks, grid)
    assert curves.area.tolist() == [30.0, 24.0]
    assert curves.internal == pytest.approx([5.0, 4.0], abs=0.03)
    assert np.isnan([curves.volume, curves.length, curves.outline]).all()
    ring = measure_curves(short_axis()["lv"], replace(grid, view="PSAX"))
    assert np.isnan([ring.volume, ring.length, ring.outline, ring.internal]).all()
    assert np.isnan(measure_curves(masks, replace(grid, view="A4C")).internal).all()
    assert np.isnan(measure_curves(masks, replace(grid, pixel_mm=None)).internal).all()


@pytest.mark.parametrize(("view", "by_volume"), [("PSAX", False), ("PLAX", False), ("A4C", True)])
def test_frames_are_chosen_by_the_area_in_parasternal_views(view, by_volume, monkeypatch):
    asked = []
    monkeypatch.setattr(alan.analysis.timeline, "simpson_volume", lambda mask, spacing: asked.append(1) or 1.0)
    maps, phase = beating()
    model = BlockModel()
    model.views = {view: model.views["A4C"]}
    labels = np.isin(maps, (1, 2)).astype(np.uint8)
    timeline = Timeline(labels, phase, np.zeros(len(maps), bool))
    beats = [Beat(0, 10, 20, True)]
    times = np.arange(len(maps)) / 25
    settle_beats(model, maps, view, times, timeline, beats=beats, spacing=(1.0, 1.0))
    assert bool(asked) == by_volume


def parasternal_evidence(view, masks, **changes):
    grid = Grid((1.0, 1.0), (1.0, 1.0), view=view)
    base = {
        "view": ViewEvidence(view, 0.9),
        "n_frames": 2,
        "timed": False,
        "cavity": masks["lv"],
        "wall": masks.get("myo"),
        "atrium": masks.get("la"),
        "curves": measure_curves(masks["lv"], grid),
        "beats": [BEAT],
        "numbers": [measure_beat(BEAT, masks, grid)],
    }
    return evidence(**base | changes)


def codes(found):
    return [flag.code for flag in find_flags(found)]


def test_parasternal_views_have_no_apical_doubts():
    """A round cavity, whose top touches the border of the sector, would be doubtful in an apical view."""
    inside = np.ones((112, 112), bool)
    inside[:31] = False
    ring = {"lv": np.stack([ellipse(50, 50), ellipse(50, 40)])}
    assert {"foreshortened", "fan_cut"} <= set(codes(parasternal_evidence("A4C", ring, inside=inside)))
    assert codes(parasternal_evidence("PSAX", ring, inside=inside)) == []
    inside[:, :12] = False
    masks = {name: mask & inside for name, mask in long_axis().items()}
    assert codes(parasternal_evidence("PLAX", masks, inside=inside)) == []
    assert "fan_cut" in codes(parasternal_evidence("PSAX", short_axis(), inside=ellipse(44, 44)))


@pytest.mark.parametrize(("degrees", "doubted"), [(0, False), (10, False), (40, True)])
def test_a_ring_with_a_missing_piece_of_wall_is_doubtful(degrees, doubted):
    masks = short_axis()
    rows, columns = np.indices((112, 112)) - np.argwhere(masks["lv"][0]).mean(0)[:, None, None]
    masks["myo"][0] &= np.abs(np.degrees(np.arctan2(rows, columns)) - 100) >= degrees / 2
    found = {flag.code: flag.reason for flag in find_flags(parasternal_evidence("PSAX", masks))}
    assert ("ring_open" in found) == doubted
    assert serious([Flag("ring_open", "")])
    if doubted:
        share = open_share(masks["lv"][0], masks["myo"][0])
        assert share == pytest.approx(degrees / 360, abs=1 / 36)
        assert f"no wall in {share:.0%} of the directions" in found["ring_open"]
    masks["lv"][0] = False
    assert math.isnan(open_share(masks["lv"][0], masks["myo"][0]))


@pytest.mark.parametrize(("removed", "doubted"), [(25, False), (46, True)])
def test_a_ring_whose_wall_lies_outside_of_the_sector_is_doubtful(removed, doubted):
    masks, inside = short_axis(), np.ones((112, 112), bool)
    inside[:, :removed] = False
    assert ("ring_open" in codes(parasternal_evidence("PSAX", masks, inside=inside))) == doubted
    assert "ring_open" not in codes(parasternal_evidence("PSAX", {"lv": masks["lv"]}, inside=inside))


@pytest.mark.parametrize(
    ("view", "masks", "words"),
    [
        ("PLAX", long_axis() | {"lv": np.zeros((2, 112, 112), bool)}, "no diameter"),
        ("PLAX", long_axis((8, 6)), "diameter of 0.8 cm"),
        ("PLAX", long_axis((40, 50)), "not smaller at end-systole"),
        ("PSAX", {"lv": short_axis()["lv"][::-1]}, "not smaller at end-systole"),
        ("PSAX", {"lv": np.zeros((2, 112, 112), bool)}, "no area"),
    ],
)
def test_implausible_parasternal_measures_raise_a_doubt(view, masks, words):
    found = {flag.code: flag.reason for flag in find_flags(parasternal_evidence(view, masks))}
    assert words in found["implausible"]


def parasternal_loop(name, view, flags=(), **values):
    loop = loop_result(name, view, math.nan, flags)
    unknown = {"ef_percent": Measure(), "edv_ml": Measure()}
    own = {measure: Measure(value, value - 1, value + 1) for measure, value in values.items()}
    beats = tuple(replace(beat, ef_percent=Measure(), **own) for beat in loop.beats)
    return replace(loop, beats=beats, **unknown, **own)


def test_a_patient_has_the_measures_of_each_view():
    long = parasternal_loop("c", "PLAX", (Flag("diastole_unclear", "0.6"),), lvidd_cm=5.0, la_diameter_cm=3.5)
    short = parasternal_loop("d", "PSAX", area_change_percent=40.0, wall_thickness_cm=1.0)
    four = replace(loop_result("a", "A4C", 50.0), area_change_percent=Measure(30.0))
    masks = {name: key_masks() for name in "abcd"}
    (patient,) = summarise_patients([long, short, four], masks)
    assert (patient.method, patient.loops, patient.n_beats) == ("single plane A4C", ("a", "c", "d"), 3)
    assert patient.ef_percent.value == 50
    assert patient.lvidd_cm == long.lvidd_cm
    assert patient.wall_thickness_cm == short.wall_thickness_cm
    assert patient.area_change_percent.value == 30  # that of the apical view
    assert patient.quality == "good"  # that of the ejection fraction
    assert patient.flags == (Flag("diastole_unclear", "PLAX: 0.6"),)
    (patient,) = summarise_patients([four, loop_result("b", "A2C", 50.0), long], masks)
    assert (patient.method, patient.loops) == ("biplane", ("a", "b", "c"))


def test_a_patient_without_an_apical_view_has_no_ejection_fraction():
    long = parasternal_loop("c", "PLAX", (Flag("diastole_unclear", "0.6"),), lvidd_cm=5.0)
    short = parasternal_loop("d", "PSAX", area_change_percent=40.0)
    (patient,) = summarise_patients([long, short], {name: key_masks() for name in "cd"})
    assert (patient.method, patient.loops, patient.quality) == ("parasternal", ("c", "d"), "doubtful")
    assert not patient.ef_percent.known
    assert not patient.edv_ml.known
    assert (patient.lvidd_cm.value, patient.area_change_percent.value) == (5, 40)
    assert patient.flags == (Flag("diastole_unclear", "PLAX: 0.6"),)


def test_the_beat_with_the_median_fractional_shortening_is_shown():
    loop = parasternal_loop("c", "PLAX")
    shortenings = (40.0, 30.0, 10.0)
    beats = tuple(
        replace(loop.beats[0], ed=n, fractional_shortening_percent=Measure(value))
        for n, value in enumerate(shortenings)
    )
    beat = median_beat(replace(loop, beats=beats))
    assert beat is not None
    assert beat.ed == 1


def test_loops_of_another_study_do_not_contribute():
    four = replace(loop_result("a", "A4C", 50.0), study="1")
    long = replace(parasternal_loop("c", "PLAX", lvidd_cm=5.0), study="2")
    (patient,) = summarise_patients([four, long], {name: key_masks() for name in "ac"})
    assert patient.loops == ("a",)
    assert not patient.lvidd_cm.known


def test_tables_hold_the_measures_of_parasternal_views(tmp_path):
    long = parasternal_loop("c", "PLAX", lvidd_cm=5.0, la_diameter_cm=3.5)
    patients = summarise_patients([long], {"c": key_masks()})
    write_tables(tmp_path, [long], patients)
    (read,) = read_patients(tmp_path)
    assert read.lvidd_cm == Measure(5, 4, 6)
    assert read.method == "parasternal"
    dictionary = (tmp_path / "columns.csv").read_text().splitlines()
    for file in ("patients.csv", "loops.csv", "beats.csv"):
        for name in PARASTERNAL_MEASURES["PLAX"]:
            assert any(row.startswith(f"{file},{name},") for row in dictionary)
    long.to_json(tmp_path / "result.json")
    assert LoopResult.from_json(tmp_path / "result.json").lvidd_cm == long.lvidd_cm


class SideModel(MapModel):
    """Model of PLAX alone."""

    def __init__(self):
        super().__init__()
        self.views = {"PLAX": self.views["A4C"]}


class WholeModel(MapModel):
    """Model of A4C, beside which another one measures PLAX."""

    def __init__(self):
        super().__init__()
        self.others = {"side": SideModel()}


def test_a_loop_is_measured_by_the_model_of_its_view():
    maps, _ = beating()
    model = WholeModel()
    long = analyze_loop(made_loop(maps), model, LoopSettings(view="PLAX", samples=4), {}).result
    assert long.status == "measured"
    assert long.notes == (SIMULATED_ONLY,)
    assert len(long.beats) == 2
    assert all(not getattr(long, name).known for name in APICAL)
    four = analyze_loop(made_loop(maps), model, LoopSettings(view="A4C", samples=4), {}).result
    assert four.notes == ()
    assert four.ef_percent.known
    left_out = analyze_loop(made_loop(maps), model, LoopSettings(view="PSAX", samples=4), {}).result
    assert left_out.reason == "the view is PSAX: the model measures A4C, PLAX"
    with pytest.raises(DataError, match="give one of A4C, PLAX"):
        model.of("PSAX")


@pytest.fixture(scope="module")
def manifests(tmp_path_factory):
    """The shipped model, and a stand-in beside it that measures PLAX with the same parcels and white boxes."""
    folder = tmp_path_factory.mktemp("models")
    (shipped,) = (root / "alan-sim.model.json" for root in folders("checkpoints")[:1])
    main = json.loads(shipped.read_text())
    main.pop("view_bank")
    main.pop("others", None)
    views, spread = main["views"]["A4C"], {"lvidd_cm": [0.1, 0.2]}
    write(folder, "alone", main)
    write(folder, "side", {**main, "views": {"PLAX": views}, "spread": spread})
    write(folder, "same", {**main, "views": {"A2C": views}})
    write(folder, "chain", {**main, "views": {"PLAX": views}, "others": ["side"]})
    write(folder, "both", {**main, "others": ["side"]})
    small = json.loads(shipped.with_name("alan-sim-small.model.json").read_text())
    write(folder, "small", {**small, "views": {"PSAX": small["views"]["A4C"]}, "view_bank": None})
    write(folder, "three", {**main, "others": ["side", "small"]})
    return folder


def write(folder, name, manifest):
    (folder / f"{name}.model.json").write_text(json.dumps(manifest))


def load(folder, name, **options):
    return AnalysisModel.load(folder / f"{name}.model.json", **options)


def test_a_manifest_names_further_models(manifests):
    both, alone = load(manifests, "both"), load(manifests, "alone")
    assert both.all_views() == ["A4C", "A2C", "PLAX"]
    assert Manifest.load(manifests / "both.model.json").all_views() == ["A4C", "A2C", "PLAX"]
    assert both.of("A4C") is both
    assert both.of("PLAX") is both.others["side"]
    assert set(both.of("PLAX").spread) == {"lvidd_cm"}
    assert both.fingerprint != alone.fingerprint
    assert both.others["side"].fingerprint == load(manifests, "side").fingerprint
    assert replace(both, others={}).fingerprint == alone.fingerprint


def test_a_view_belongs_to_one_model_and_models_form_no_chain(manifests):
    main = json.loads((manifests / "alone.model.json").read_text())
    for others, words in (
        (["same"], "wrong and same both measure A2C"),
        (["side", "side2"], "side and side2 both measure PLAX"),
        (["chain"], "chain names further models"),
        (["nowhere"], "no such model"),
    ):
        shutil.copy(manifests / "side.model.json", manifests / "side2.model.json")
        write(manifests, "wrong", {**main, "others": others})
        with pytest.raises(DataError, match=words):
            load(manifests, "wrong")
    alone = load(manifests, "alone")
    with pytest.raises(DataError, match="the model and twin both measure A4C"):
        replace(alone, others={"twin": alone})


def test_a_saved_model_brings_its_others(manifests, tmp_path):
    both = load(manifests, "both")
    both.save(tmp_path / "model", "model")
    assert {path.name for path in (tmp_path / "model").iterdir()} <= set(AnalysisModel.files("model"))
    moved = AnalysisModel.load(shutil.move(tmp_path / "model", tmp_path / "moved"))
    assert moved.fingerprint == both.fingerprint
    assert moved.all_views() == both.all_views()


def test_others_are_moved_to_the_device(manifests, monkeypatch):
    both, moved = load(manifests, "both"), []
    monkeypatch.setattr(type(both.parcels), "to", lambda self, device: moved.append(self) or self)
    both.to(torch.device("cpu"))
    assert moved == [both.parcels, both.others["side"].parcels]


def test_an_opinion_goes_to_the_models_with_its_parcels(manifests, tmp_path):
    three = load(manifests, "three")

    def edited(parcels):
        """Whether the lists of the cavity in (A4C, PLAX, PSAX) follow an opinion on parcel 3."""
        file = tmp_path / f"{parcels[:4]}.json"
        ExpertOpinion("lv", parcels, {3: Opinion.of("inside")}).to_json(file)
        found = load(manifests, "three", opinions=[file])
        boxes = [
            model.of(view).views[view]["lv"].ed for view in ("A4C", "PLAX", "PSAX") for model in (three, found)
        ]
        texts = [box.to_json() for box in boxes]
        return [before != after for before, after in zip(texts[::2], texts[1::2], strict=True)]

    assert edited(three.parcels.fingerprint) == [True, True, False]  # the first two models have the same parcels
    assert edited(three.others["small"].parcels.fingerprint) == [False, False, True]
    with pytest.raises(ParameterError, match="same parcel model"):
        edited("0" * 64)


def test_an_export_contains_the_programs_of_further_models(manifests, tmp_path, monkeypatch):
    written = []

    def write_program(parcels, path, size):
        written.append((parcels.fingerprint, path.relative_to(tmp_path).as_posix(), size))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        return {"deviation": 0.0}

    monkeypatch.setattr("alan.export.program.write_program", write_program)
    export_model(str(manifests / "three.model.json"), str(tmp_path / "out"))
    three = load(manifests, "three")
    assert written == [
        (three.parcels.fingerprint, "out/network.onnx", 112),
        (three.others["side"].parcels.fingerprint, "out/others/side/network.onnx", 112),
        (three.others["small"].parcels.fingerprint, "out/others/small/network.onnx", 112),
    ]
    assert AnalysisModel.load(tmp_path / "out").fingerprint == three.fingerprint


@pytest.mark.parametrize(("shown", "taken_for", "doubted"), [("A2C", "PSAX", True), ("PSAX", "PSAX", False)])
def test_a_view_that_another_network_finds_as_surely_is_doubted(monkeypatch, shown, taken_for, doubted):
    """An apical loop that is taken for a parasternal one is measured as such, with a doubt."""
    model = AnalysisModel.load("alan-sim")
    clip = simulate_sequence(shown, 5, n_frames=8, seed=[5, 5])
    votes = ViewResult(
        taken_for, 1.0, {taken_for: 1.0}, np.zeros(0, np.int64), np.zeros((0, 28, 28), np.uint8), False
    )
    monkeypatch.setattr(ViewBank, "classify", lambda self, frames: votes)
    monkeypatch.setattr(ViewBank, "looks_mirrored", lambda self, frames, found=None: False)
    loop = made_loop(clip.frames)
    loop.box = (slice(0, 112), slice(0, 112))
    result = analyze_loop(loop, model, LoopSettings(samples=0), {}).result
    assert result.view.contradicted == doubted
    assert any("nearly as surely" in flag.reason for flag in result.flags) == doubted


@pytest.mark.parametrize(("view", "code"), [("PLAX", "size_needed"), ("PSAX", "size_unknown")])
def test_a_long_axis_without_a_pixel_size_is_doubtful(view, code):
    flags = find_flags(evidence(view=ViewEvidence(view, 1.0), sized=False, cavity=None, curves=None))
    assert [flag.code for flag in flags] == [code]
    assert bool(serious(flags)) == (view == "PLAX")
