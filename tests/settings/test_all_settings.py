"""Every public setting is tried: shown to change the result, or not to, or left out with a reason."""

import importlib
from pathlib import Path

import pytest

import alan

from ..varying import STUDIES, settings_of

for path in sorted(Path(__file__).parent.glob("test_*_settings.py")):
    importlib.import_module(f"{__package__}.{path.stem}")

#: Names whose settings the tests of their package vary, or that are records.
ELSEWHERE = {
    "Acdc Camus Coco EchoNetDynamic FrameFolder SegmentsAi Tmed2": "tests/data/readers",
    "Record Sample Cine Screen": "records of the readers and of the simulator",
    "Fan find_fans": "tests/data/test_fan.py",
    "extract_frames prepare": "tests/data/test_extract.py, tests/data/store",
    "write_cache FeatureCache": "tests/cache",
    "load_parcels run_parcels": "tests/parcels",
    "load_white_boxes run_naming run_segmentation": "tests/downstream",
    "SearchData SearchSpace StudySettings run_search": "tests/search",
    "run_active merge_runs run_suggestion run_evaluation": "tests/active, tests/evaluation",
    "AnalysisModel AnalysisSettings Manifest Source analyze_files analyze_loop assemble_model "
    "calibrate_model calibrate_spread "
    "export_loop export_model find_sources open_loops read_loops write_tables": "tests/analysis",
    "BeatResult FrameResult LoopAnalysis LoopResult Measure PatientResult ViewEvidence": "results of an analysis",
}
PACKAGES = [
    "active",
    "analysis",
    "backbone",
    "cache",
    "data",
    "data.simulator",
    "downstream",
    "evaluation",
    "parcels",
    "search",
    "supervised",
]


def public(package):
    module = importlib.import_module(f"alan.{package}")
    members = [getattr(module, name) for name in module.__all__]
    return {one.__name__: one for one in members if callable(one) and settings_of(one)}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_studied(package):
    elsewhere = {name for names in ELSEWHERE for name in names.split()}
    studied = {one.target.__name__ for one in STUDIES}
    assert not {*public(package)} - studied - elsewhere
    assert not studied & elsewhere


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.target.__name__)
def test_every_setting_is_varied(study):
    assert settings_of(study.target) == {*study.changes, *study.same, *study.untried}


def test_studies_cover_this_package_only():
    assert len(STUDIES) > 60
    assert all(study.target.__module__.startswith(alan.__name__) for study in STUDIES)
