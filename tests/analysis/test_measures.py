"""Measurements of outlines, compared with ellipsoids of known volume."""

import math
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from alan.analysis import Flag, LoopResult, Measure, ViewEvidence
from alan.analysis.measures import (
    BeatMeasures,
    Curves,
    Grid,
    Size,
    frame_results,
    measure_beat,
    measure_curves,
    measure_size,
    outline_length_cm,
    share_on_border,
    summarise_beats,
)
from alan.analysis.patients import KeyMasks, summarise_patients
from alan.analysis.quality import FLAGS, Evidence, find_flags, outline_contrast
from alan.analysis.results import BeatResult
from alan.cardiac import Beat, find_beats


def ellipse(height, width, shape=(112, 112)):
    """Mask of an ellipse with axes in pixels, upright and in the middle."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    middle = (shape[0] - 1) / 2, (shape[1] - 1) / 2
    return ((rows - middle[0]) / (height / 2)) ** 2 + ((columns - middle[1]) / (width / 2)) ** 2 <= 1


def beating_masks(n=60, period=30):
    """Ellipsoids of 80 x 40 px at end-diastole and 70 x 28 px at end-systole."""
    p = 0.5 + 0.5 * np.cos(2 * np.pi * np.arange(n) / period)
    return np.stack([ellipse(70 + 10 * x, 28 + 12 * x) for x in p])


def ellipsoid_ml(length, width):
    return math.pi / 6 * length * width**2 / 1000


def test_ejection_fraction_of_an_ellipsoid_is_exact_with_anisotropic_pixels():
    grid = Grid((2.0, 4.0), (0.5, 0.25))  # a pixel of the grid is 1 mm wide and high
    curves = measure_curves(beating_masks(), grid)
    times = np.arange(60) / 30
    beats = find_beats(curves.volume, times)
    np.testing.assert_allclose([(beat.ed, beat.es) for beat in beats], [(0, 15), (30, 45)], atol=1)
    found = measure_beat(Beat(30, 15, None, True), {"lv": beating_masks()}, grid)
    edv, esv = ellipsoid_ml(80, 40), ellipsoid_ml(70, 28)
    assert found.edv_ml == pytest.approx(edv, rel=0.02)
    assert found.ef_percent == pytest.approx(100 * (1 - esv / edv), abs=1.0)
    area = 100 * (1 - 70 * 28 / (80 * 40))
    assert found.area_change_percent == pytest.approx(area, abs=1.0)


def test_ejection_fraction_needs_no_pixel_size_but_volumes_do():
    numbers = BeatMeasures.between(Size(100, 10, 20), Size(40, 6, 16))
    known = summarise_beats([numbers, numbers], sized=False)
    assert known["ef_percent"].value == pytest.approx(60)
    assert "edv_ml" not in known
    assert summarise_beats([numbers], sized=True)["stroke_volume_ml"].value == 60
    assert summarise_beats([], sized=True) == {}


def test_mass_is_that_of_a_shell_at_end_diastole_and_the_atrium_is_measured_at_end_systole():
    outer, inner, round_ = ellipse(80, 50), ellipse(70, 40), ellipse(40, 40)
    masks = {"lv": inner, "myo": outer & ~inner, "la": round_}
    grid = Grid((1.0, 1.0), (1.0, 1.0))
    size = measure_size(masks, grid)
    assert size.mass == pytest.approx(1.05 * (ellipsoid_ml(80, 50) - ellipsoid_ml(70, 40)), rel=0.02)
    assert size.atrium == pytest.approx(ellipsoid_ml(40, 40), rel=0.02)
    assert math.isnan(measure_size({"lv": inner}, grid).mass)
    assert math.isnan(measure_size({"lv": inner}, grid).atrium)
    found = BeatMeasures.between(Size(100, 10, 20, 150, 40), Size(40, 6, 16, 140, 60), 75.0)
    assert (found.lv_mass_g, found.la_volume_ml, found.heart_rate_bpm) == (150, 60, 75)
    assert not {"la_volume_ml", "lv_mass_g"} & set(summarise_beats([found], sized=False))


def test_outline_length_of_a_half_circle_is_exact():
    disk = ellipse(80, 80)
    disk[56:] = False  # the base is flat
    found = outline_length_cm(disk, (1.0, 1.0))
    assert found == pytest.approx((math.pi * 40 - 2 * 0.12 * 40) / 10, rel=0.05)
    assert math.isnan(outline_length_cm(np.zeros((8, 8), bool), (1.0, 1.0)))


def test_an_atrium_that_the_sector_cuts_off_has_no_volume():
    masks = {"lv": ellipse(60, 30), "la": np.roll(ellipse(40, 40), 30, axis=0)}
    rows, _ = np.nonzero(masks["la"])
    assert share_on_border(masks["la"], None) == 0
    for cut, known in ((rows.max() + 4, True), (rows.max() - 14, False)):
        inside = np.ones((112, 112), bool)
        inside[cut:] = False
        seen = {name: mask & inside for name, mask in masks.items()}
        share = share_on_border(seen["la"], inside)
        outline = {
            (r, c)
            for r, c in zip(*np.nonzero(seen["la"]), strict=True)
            if not all(seen["la"][r + y, c + x] for y, x in ((0, 1), (1, 0), (0, -1), (-1, 0)))
        }
        assert share == pytest.approx(np.mean([r >= cut - 2 for r, _ in outline]))
        size = measure_size(seen, Grid((1.0, 1.0), (1.0, 1.0), inside=inside))
        assert math.isfinite(size.atrium) == known == (share <= 0.25)
        assert size.volume == measure_size(seen, Grid((1.0, 1.0), (1.0, 1.0))).volume


def evidence(**changes):
    masks = beating_masks()
    grid = Grid((1.0, 1.0), (1.0, 1.0))
    curves = measure_curves(masks, grid)
    beats = find_beats(curves.volume, np.arange(60) / 30)
    base: dict[str, object] = {
        "n_frames": 60,
        "sized": True,
        "times": np.arange(60) / 30,
        "timed": True,
        "view": ViewEvidence("A4C", 0.9),
        "has_fan": True,
        "inside": np.ones((112, 112), bool),
        "cavity": masks,
        "wall": None,
        "atrium": masks,
        "curves": curves,
        "beats": beats,
        "numbers": [measure_beat(beat, {"lv": masks}, grid) for beat in beats],
        "contrasts": {"end-diastole": 0.75, "end-systole": 0.73},
        "jump_share": 0.0,
    }
    return Evidence(**base | changes)


def test_a_clean_loop_raises_no_doubt():
    assert find_flags(evidence()) == ()


def test_a_gap_in_time_is_no_low_frame_rate():
    times = np.arange(60) / 30 + 3 * (np.arange(60) > 40)
    (flag,) = find_flags(evidence(times=times))
    assert flag == Flag(
        "time_gap",
        "3 s pass between frames 40 and 41, elsewhere 0.033 s: check the heart rate and the beat there",
    )
    uneven = np.cumsum(np.tile([0.02, 0.07], 30))  # alternating steps, none of which is a gap
    assert find_flags(evidence(times=uneven)) == ()
    dropped = np.delete(np.arange(61) / 30, 20)  # 0.067 s
    assert find_flags(evidence(times=dropped)) == ()


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("size_unknown", {"sized": False}),
        ("times_unknown", {"times": None}),
        ("still", {"n_frames": 1}),
        ("low_frame_rate", {"times": np.arange(60) / 3}),
        ("time_gap", {"times": np.arange(60) / 30 + 0.4 * (np.arange(60) > 40)}),
        ("no_beat", {"beats": [], "numbers": []}),
        ("partial_beat", {"beats": [Beat(0, 15, None, True)]}),
        ("irregular_beats", {"beats": [Beat(0, 15, 30, True), Beat(30, 45, 59, False)]}),
        ("mirrored", {"view": ViewEvidence("A2C", 0.9, {"A2C": 0.9}, mirrored=True)}),
        ("view_unsure", {"view": ViewEvidence("A4C", 0.4, {"A4C": 0.4, "PSAX": 0.6}, unsure=True)}),
        ("apical_unsure", {"view": ViewEvidence("A4C", 0.4, {"A4C": 0.4, "A2C": 0.6}, unsure=True)}),
        ("mask_empty", {"cavity": np.zeros((60, 112, 112), bool)}),
        ("jumping", {"jump_share": 0.3}),
        ("fan_unknown", {"has_fan": False}),
        ("fan_cut", {"inside": ellipse(76, 36)}),
        ("atrium_cut", {"atrium": np.ones((60, 112, 112), bool)}),
        ("foreshortened", {"curves": measure_curves(np.stack([ellipse(50, 48)] * 60), Grid((1, 1), (1, 1)))}),
        ("outline_unclear", {"contrasts": {"end-diastole": 0.75, "end-systole": 0.6}}),
        ("diastole_unclear", {"contrasts": {"end-diastole": 0.73, "end-systole": 0.75}}),
        ("implausible", {"numbers": [BeatMeasures(100, 99, 1, 1, 1, 1)] * 2}),
        ("implausible", {"numbers": [BeatMeasures(0, 0, np.nan, np.nan, 1, 1)]}),
        ("implausible", {"numbers": [BeatMeasures(23_000, 10_000, 13_000, 56, 1, 1)]}),
    ],
)
def test_each_doubt_is_raised_for_its_reason(code, changes):
    found = {flag.code: flag.reason for flag in find_flags(evidence(**changes))}
    assert code in found
    assert found[code]
    assert "nan" not in found[code]
    assert code in FLAGS


def test_an_unsure_view_is_doubted_with_its_two_largest_votes():
    votes = {"PLAX": 0.1, "A2C": 0.35, "A4C": 0.55}
    (flag,) = find_flags(evidence(view=ViewEvidence("A4C", 0.55, votes, unsure=True)))
    assert flag == Flag("apical_unsure", "the votes are A4C 55%, A2C 35%")


def test_a_loop_jumps_from_a_tenth_of_its_outlines_on():
    assert find_flags(evidence(jump_share=0.1)) == ()
    (flag,) = find_flags(evidence(jump_share=0.12))
    assert flag == Flag("jumping", "12% of the outlines jumped, more than 10%")


def test_a_view_without_a_ventricle_has_no_doubts_about_outlines():
    (flag,) = find_flags(evidence(cavity=None, curves=None, jump_share=1.0, sized=False))
    assert flag.code == "size_unknown"


def test_the_doubt_about_irregular_beats_states_the_bound(monkeypatch):
    monkeypatch.setattr("alan.analysis.quality.IRREGULAR", 0.35)
    (flag,) = find_flags(evidence(beats=[Beat(0, 15, 30, True), Beat(30, 45, 59, False)]))
    assert flag.reason == "1 of 2 beats differ by more than 35% from the median duration"


@pytest.mark.parametrize(("rows", "codes"), [(12, ["fan_cut"]), (-6, [])])
def test_a_ventricle_whose_apex_the_sector_cuts_off_is_doubtful(rows, codes):
    masks, inside = beating_masks(), np.ones((112, 112), bool)
    edge = int(np.flatnonzero(masks.any((0, 2)))[0]) + rows
    inside[:edge], masks[:, :edge] = False, False
    assert [flag.code for flag in find_flags(evidence(cavity=masks, inside=inside))] == codes


def test_the_contrast_of_an_outline_compares_its_parcels_with_those_of_a_ring():
    mask = np.zeros((112, 112), bool)
    mask[40:60, 40:60] = True
    ring = np.zeros_like(mask)
    ring[32:68, 40:60] = ring[40:60, 32:68] = True  # the corners of the ring are round
    shares = np.where(mask, 0.9, np.where(ring, 0.2, 0.5))
    contrast = outline_contrast(shares, mask)
    corners = 4 * sum(math.hypot(x, y) <= 8 for x in range(1, 9) for y in range(1, 9))
    mean = (4 * 8 * 20 * 0.2 + corners * 0.5) / (4 * 8 * 20 + corners)
    assert contrast == pytest.approx(0.9 - mean)
    assert outline_contrast(np.full_like(shares, 0.5), mask) == pytest.approx(0)
    assert outline_contrast(mask.astype(float), mask) == 1
    assert math.isnan(outline_contrast(shares, np.zeros_like(mask)))


def loop_result(name, view, ef, flags=(), pixel_mm=(1.0, 1.0)):
    beat = BeatResult(0, 1, 2, True, ef_percent=Measure(ef, ef - 4, ef + 4))
    measures = {"ef_percent": Measure(ef, ef - 4, ef + 4), "edv_ml": Measure(100, 90, 110)}
    return LoopResult(
        name,
        "p",
        "measured",
        view=ViewEvidence(view, 1.0),
        beats=(beat,),
        flags=flags,
        pixel_mm=pixel_mm,
        **measures,
    )


def key_masks(ed=(80, 40), es=(70, 28)):
    return KeyMasks(ellipse(*ed), ellipse(*es), (1.0, 1.0))


def test_biplane_volume_is_computed_from_both_views():
    loops = [loop_result("a", "A4C", 50.0), loop_result("b", "A2C", 60.0)]
    masks = {"a": key_masks(), "b": key_masks((80, 30), (70, 20))}
    (patient,) = summarise_patients(loops, masks)
    assert patient.method == "biplane"
    edv, esv = (math.pi / 6 * le * a * b / 1000 for le, a, b in ((80, 40, 30), (70, 28, 20)))
    assert patient.edv_ml.value == pytest.approx(edv, rel=0.02)
    assert patient.ef_percent.value == pytest.approx(100 * (1 - esv / edv), abs=1)
    assert patient.ef_shared_length_percent == pytest.approx(100 * (1 - 28 * 20 / (40 * 30)), abs=1)
    half = math.sqrt(4**2 + 4**2 + 2 * 0.5 * 4 * 4) / 2
    assert patient.ef_percent.high - patient.ef_percent.value == pytest.approx(half)
    assert patient.quality == "good"


@pytest.mark.parametrize(("ef", "codes"), [(70.0, []), (71.0, ["planes_differ"])])
def test_ejection_fractions_of_two_views_that_differ_raise_a_doubt(ef, codes):
    loops = [loop_result("a", "A4C", 50.0), loop_result("b", "A2C", ef)]
    (patient,) = summarise_patients(loops, {"a": key_masks(), "b": key_masks()})
    assert [flag.code for flag in patient.flags] == codes
    assert patient.quality == ("doubtful" if codes else "good")
    assert all("differ by 21 points" in flag.reason and flag.code in FLAGS for flag in patient.flags)


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (("r waves", "area"), 60),
        (("area", "drawn ecg"), 80),
        (("area", "area"), 70),
        (("r waves", "drawn ecg"), 70),
    ],
)
def test_the_heart_rate_of_a_patient_is_that_of_the_loops_with_an_ecg(sources, expected):
    loops = [
        replace(loop_result(name, view, 50.0), heart_rate_bpm=Measure(rate), rate_source=source)
        for name, view, rate, source in zip("ab", ("A4C", "A2C"), (60.0, 80.0), sources, strict=True)
    ]
    (patient,) = summarise_patients(loops, {"a": key_masks(), "b": key_masks()})
    assert patient.heart_rate_bpm.value == expected


def test_loops_of_two_studies_are_not_combined():
    baseline = replace(loop_result("a", "A4C", 50.0), study="1")
    later = [replace(loop_result(name, view, 60.0), study="2") for name, view in (("b", "A2C"), ("c", "A4C"))]
    masks = {name: key_masks() for name in "abc"}
    (patient,) = summarise_patients([baseline, later[0]], masks)
    assert patient.method == "single plane A4C"
    assert math.isnan(patient.ef_shared_length_percent)
    assert patient.quality == "doubtful"
    assert [flag.code for flag in patient.flags] == ["several_studies"]
    (patient,) = summarise_patients([baseline, *later], masks)
    assert (patient.method, patient.loops) == ("biplane", ("c", "b"))
    assert patient.n_loops == 3
    (patient,) = summarise_patients(later, masks)
    assert patient.quality == "good"
    (patient,) = summarise_patients(later, masks, {later[0].patient: "two people"})
    assert (patient.quality, patient.flags) == ("doubtful", (Flag("patient_unclear", "two people"),))


def test_stages_of_a_stress_test_are_not_combined():
    rest = [
        replace(loop_result(name, view, 50.0), study="1", stage="1") for name, view in (("a", "A4C"), ("b", "A2C"))
    ]
    peak = replace(loop_result("c", "A4C", 70.0), study="1", stage="10")
    later = replace(loop_result("d", "A2C", 65.0), study="1", stage="2")
    masks = {name: key_masks() for name in "abcd"}
    (patient,) = summarise_patients([peak, later, *rest], masks)
    assert (patient.method, patient.loops, patient.quality) == ("biplane", ("a", "b"), "doubtful")
    words = "the patient has loops of 3 stages of a stress test, and the result is that of the first"
    assert patient.flags == (Flag("several_stages", words),)
    (patient,) = summarise_patients([peak, later], masks)
    assert (patient.method, patient.loops) == ("single plane A2C", ("d",))
    named = [replace(loop, stage=name) for loop, name in zip(rest, ("ab", "cd"), strict=True)]
    (patient,) = summarise_patients([*named, peak], masks)
    assert patient.loops == ("c",)  # a number precedes a name
    (patient,) = summarise_patients(named, masks)
    assert "and the result is that of one of them" in patient.flags[0].reason
    (patient,) = summarise_patients([*rest, replace(peak, stage="")], masks)
    assert patient.loops == ("c",)
    (patient,) = summarise_patients(rest, masks)
    assert patient.quality == "good"


def test_single_plane_volume_uses_the_loop_with_fewer_doubts():
    doubt = (Flag("jumping", "30%"),)
    loops = [loop_result("a", "A4C", 20.0, doubt), loop_result("b", "A4C", 60.0)]
    (patient,) = summarise_patients(loops, {"a": key_masks(), "b": key_masks()})
    assert (patient.method, patient.loops, patient.ef_percent.value) == ("single plane A4C", ("b",), 60.0)
    assert patient.quality == "good"
    (alone,) = summarise_patients(loops[:1], {"a": key_masks()})
    assert alone.quality == "doubtful"


def test_an_atrium_cut_in_one_view_raises_no_doubt_if_the_other_view_has_its_volume():
    cut = loop_result("a", "A4C", 50.0, (Flag("atrium_cut", "34%"),))
    whole = replace(loop_result("b", "A2C", 60.0), la_volume_ml=Measure(60, 50, 70))
    masks = {"a": key_masks(), "b": key_masks()}
    (patient,) = summarise_patients([cut, whole], masks)
    assert (patient.la_volume_ml.value, patient.flags) == (60, ())
    (alone,) = summarise_patients([cut], masks)
    assert [flag.code for flag in alone.flags] == ["atrium_cut"]


@pytest.mark.parametrize(
    ("code", "quality"), [("outline_unclear", "good"), ("apical_unsure", "good"), ("diastole_unclear", "doubtful")]
)
def test_notes_leave_a_result_good(code, quality):
    loops = [loop_result("a", "A4C", 50.0, (Flag(code, "reason"),)), loop_result("b", "A2C", 60.0)]
    (patient,) = summarise_patients(loops, {"a": key_masks(), "b": key_masks()})
    assert (patient.quality, [flag.code for flag in patient.flags]) == (quality, [code])


def test_a_doubt_of_one_loop_names_it():
    cut, short = Flag("fan_cut", "30% of the outline"), Flag("foreshortened", "1.2 times")
    unsized = Flag("size_unknown", "give --spacing")
    loops = [loop_result("a", "A4C", 50.0, (cut, unsized)), loop_result("b", "A2C", 60.0, (short, unsized))]
    (patient,) = summarise_patients(loops, {"a": key_masks(), "b": key_masks()})
    assert [flag.reason for flag in patient.flags] == [
        "A4C: 30% of the outline",
        "give --spacing",  # holds for both
        "A2C: 1.2 times",
    ]
    stills = [replace(loop, loop=f"{n}", flags=(Flag("still", f"{n}"),)) for n, loop in enumerate(loops * 2)]
    (patient,) = summarise_patients(stills, {})
    assert [flag.reason for flag in patient.flags] == ["loop 0: 0, loop 1: 1 (and 2 more)"]


def test_unequal_axes_raise_a_doubt_and_no_beat_gives_no_number():
    loops = [loop_result("a", "A4C", 50.0), loop_result("b", "A2C", 60.0)]
    masks = {"a": key_masks(), "b": key_masks((50, 30), (40, 20))}
    (patient,) = summarise_patients(loops, masks)
    assert "foreshortened" in {flag.code for flag in patient.flags}
    short = (Flag("foreshortened", "1.2 times"),)
    (patient,) = summarise_patients([loop_result("a", "A4C", 50.0, short), loops[1]], masks)
    (reason,) = [flag.reason for flag in patient.flags if flag.code == "foreshortened"]
    assert re.fullmatch(r"A4C: 1.2 times, the long axes of the two views differ by \d+%, more than 20%", reason)
    unsized = [loop_result("a", "A4C", 50.0, pixel_mm=None), loop_result("b", "A2C", 60.0, pixel_mm=None)]
    (patient,) = summarise_patients(unsized, masks)  # pixels of two zooms cannot be compared
    assert "foreshortened" not in {flag.code for flag in patient.flags}
    (nothing,) = summarise_patients(loops, {})
    assert nothing.quality == "none"
    assert not nothing.ef_percent.known


def test_results_of_a_frame_match_hand_computed_values():
    """Pixels of 1.0 by 2.4 mm, each of 2 x 3 pixels of the file; the volume of the second frame is unknown."""
    labels = np.zeros((2, 4, 5), np.uint8)
    labels[:, 0, :3], labels[:, 3, :2] = 1, 2
    timeline = SimpleNamespace(labels=labels, phase=np.array([1.0, 0.25]), repaired=np.array([False, True]))
    unknown = np.full(2, np.nan)
    curves = Curves(np.array([70.0, np.nan]), unknown, np.array([7.5, 6.0]), unknown, unknown)
    grid = Grid((2.0, 3.0), (0.5, 0.8))
    first, second = frame_results(timeline, ("lv", "la"), curves, grid, np.array([0.0, 0.04]))
    assert first.area_px == second.area_px == {"lv": 18.0, "la": 12.0}
    assert first.area_cm2 == pytest.approx({"lv": 0.072, "la": 0.048})
    assert (first.volume_ml, first.length_cm, first.lvid_cm) == (70.0, 7.5, None)
    assert (second.volume_ml, second.length_cm, second.time_s) == (None, 6.0, 0.04)
    assert (second.frame, second.phase, second.repaired) == (1, 0.25, True)
    (first, _) = frame_results(timeline, ("lv", "la"), curves, Grid((2.0, 3.0), None), None)
    assert first.area_px == {"lv": 18.0, "la": 12.0}
    assert (first.area_cm2, first.volume_ml, first.length_cm, first.time_s) == ({}, None, None, None)


def test_the_grid_of_a_result_has_pixels_of_the_sector_of_the_file():
    """Label maps of 120 x 100 pixels over a sector of 240 x 300 pixels of the file, whose pixels are oblong."""
    result = SimpleNamespace(box=(5, 7, 240, 300), pixel_mm=(0.5, 0.8), pixel_aspect=0.625, view=None)
    grid = Grid.of(result, np.zeros((1, 120, 100), np.uint8))
    assert (grid.pixels, grid.view) == ((2.0, 3.0), "")
    assert grid.spacing == pytest.approx((1.0, 2.4))
    result.pixel_mm = None
    assert Grid.of(result, np.zeros((1, 120, 100), np.uint8)).spacing == pytest.approx((1.25, 3.0))
