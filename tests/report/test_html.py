import json
import re

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
    case = {**names, "id": "a", "patient": "a", "dice": 0.5, "volume": 9.0, "volume_manual": 8.0}
    later = {**case, "phase": "ES", "volume": 4.0, "volume_manual": 4.0}
    pd.DataFrame([case, later]).to_csv(tmp_path / "per_case.csv", index=False)
    (tmp_path / "config.yaml").write_text("title: Trial\n")
    (tmp_path / "results.json").write_text(json.dumps(results))
    return tmp_path


def test_user_text_is_escaped(run):
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
    with pytest.raises(DataError, match="alan-results/2"):
        write_report(run)
    (run / "results.json").unlink()
    with pytest.raises(DataError, match="no such file"):
        write_report(run)


def test_simulated_data_are_announced_at_the_top(run, results):
    page = write_report(run).read_text()
    assert "Simulated data" not in page
    results["segmentation"]["store"] |= {"simulated": True, "name": "simulated CAMUS"}
    (run / "results.json").write_text(json.dumps(results))
    page = write_report(run).read_text()
    assert "columns whose names end in\n<code>manual</code> hold values of the simulator's outlines" in page
    assert page.index('<p class="alarm"><strong>Simulated data</strong> (simulated CAMUS)') < page.index("<table")
    summary = pd.read_csv(run / "summary.csv")
    assert summary["simulated"].all()
    assert set(summary["data"]) == {"simulated CAMUS"}
    assert r"\caption{Left ventricle (simulated CAMUS)}" in (run / "summary.tex").read_text()
    marked = (run / "figures" / "methods.png").read_bytes()
    results["segmentation"]["store"]["simulated"] = False
    (run / "results.json").write_text(json.dumps(results))
    write_report(run)
    assert (run / "figures" / "methods.png").read_bytes() != marked


def test_the_summary_has_every_figure_and_its_description(run, results):
    write_report(run)
    summary, columns = pd.read_csv(run / "summary.csv"), pd.read_csv(run / "columns.csv", keep_default_na=False)
    one = summary[(summary["method"] == "RAPTOR") & (summary["rule"] == "greedy") & (summary["phase"] == "ED")]
    dice = one.set_index("metric").loc["dice"]
    assert dice[["value", "low", "high", "n", "patients", "undefined"]].tolist() == [0.8, 0.75, 0.85, 6, 6, 0]
    assert one.set_index("metric").loc["hd95_mm", ["unit", "value"]].tolist() == ["mm", 9.0]
    assert one.set_index("metric").loc["dice_minus_atlas", "value"] == 0.05
    ef = summary.set_index("metric").loc["ef_mean_bias"]
    assert ef[["unit", "value", "low", "high"]].tolist() == ["points", -1.9, -3.9, 0.3]
    for file in ("summary.csv", "per_case.csv"):
        described = columns[columns["file"] == file]["column"]
        assert set(pd.read_csv(run / file).columns) <= set(described)
    assert (columns["description"] != "").all()
    tex = (run / "summary.tex").read_text()
    assert r"\caption{Left ventricle (CAMUS)}" in tex
    assert "80.0 (75.0 to 85.0)" in tex


def test_every_table_and_figure_is_described(run):
    page = write_report(run).read_text()
    alternatives = re.findall(r'<img [^>]*alt="([^"]*)"', page)
    assert len(alternatives) == 3
    assert "RAPTOR, greedy rule at end-diastole 80.0%" in alternatives[0]
    assert "median 50.0%, from 50.0% to 50.0%" in alternatives[1]
    assert "mean bias −1.9 points, limits of agreement −14.1 to 10.3 points, 6 loops" in alternatives[2]
    assert page.count("<table") == page.count('role="region"')
    for opened in ("Ejection fraction from the outlines", "All metrics"):
        assert f"<summary>{opened}</summary>" in page
    assert "::details-content" in page  # opens what is folded in print
    assert ".parcels details:not([open]) { display: none; }" in page  # but long tables of parcels
