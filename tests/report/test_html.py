import json

import pandas as pd
import pytest

from alan.errors import DataError
from alan.report.html import write_report


@pytest.fixture
def run(results, tmp_path):
    (tmp_path / "models").mkdir()
    model = {"selector": {"images": 12, "parcels": []}}
    (tmp_path / "models" / "lv-raptor-greedy.json").write_text(json.dumps(model))
    names = {"method": "RAPTOR", "kind": "parcels", "rule": "greedy", "structure": "lv", "phase": "ED"}
    pd.DataFrame([{**names, "dice": 0.5}]).to_csv(tmp_path / "per_case.csv", index=False)
    (tmp_path / "config.yaml").write_text("title: Trial\n")
    (tmp_path / "results.json").write_text(json.dumps(results))
    return tmp_path


def test_what_users_write_is_escaped(run):
    page = write_report(run).read_text()
    assert "Trial &lt;b&gt;" in page
    assert "Trial <b>" not in page
    assert '<p class="alarm">' not in page


def test_a_leak_is_announced(run, results):
    results["segmentation"]["leaks"] = "By image."
    (run / "results.json").write_text(json.dumps(results))
    assert '<p class="alarm"><strong>This split leaks.</strong> By image.' in write_report(run).read_text()


def test_the_same_run_gives_the_same_page(run):
    assert write_report(run).read_bytes() == write_report(run).read_bytes()


def test_an_unfinished_or_foreign_folder_is_refused(run):
    (run / "results.json").write_text('{"schema": "other"}')
    with pytest.raises(DataError, match="alan-results/1"):
        write_report(run)
    (run / "results.json").unlink()
    with pytest.raises(DataError, match="no such file"):
        write_report(run)
