"""The demonstration, from simulation to both reports."""

from pathlib import Path

import pytest


def contents(folder):
    return {
        path.relative_to(folder): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.slow
def test_a_repeated_demo_reuses_finished_stages(alan, tmp_path):
    """The second time finished stages are reused: nothing but the pages is written again."""
    args = ("demo", "--fast", "true", "--patients", 9, "--studies", 8, "--workers", 1, "--out", tmp_path)
    ran = alan(*args)
    assert ran.code == 0, ran.err
    assert f"open {tmp_path}/report/report.html" in ran.lines[-1]
    before = contents(tmp_path)
    names = {path.as_posix() for path in before}
    assert {"camus.h5", "tmed.h5", "backbone/backbone.safetensors", "parcels/parcels.safetensors"} <= names
    assert {"report/report.html", "report/results.json", "report/per_case.csv"} <= names
    assert before[Path("report/report.html")][0].startswith(b"<!")
    assert alan(*args).code == 0
    after = contents(tmp_path)
    assert after.keys() == before.keys()
    written = [path for path in after if after[path] != before[path]]
    assert {path.parts[0] for path in written} == {"loops", "report"}
    assert not {path.parts[:2] for path in written} & {("loops", "loops"), ("loops", "sources")}
    assert not {path.name for path in written} & {"results.json", "per_case.csv", "config.yaml"}
