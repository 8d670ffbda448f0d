"""The counts of the campaign, printed at its end: files and commands tried, refused, right and wrong."""

import json
import subprocess
import sys

import pytest

from .counts import count_lines


@pytest.fixture
def damage(record_property):
    """Function that damages files by a script in a process of its own, and records and returns the counts."""

    def run(script, kinds, tries, folder, seconds):
        command = [sys.executable, script, ",".join(kinds), str(tries), "3", folder]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
        assert ran.returncode == 0, ran.stderr[-2000:]
        results = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
        for result in results:
            for way, count in result["counts"].items():
                for name in ("refused", "right", "wrong"):
                    record_property("fault", (f"read {result['kind']}", way, name, count[name]))
            assert not result["others"], result["kind"]
        assert [result["kind"] for result in results] == list(kinds)
        return results

    return run


def pytest_terminal_summary(terminalreporter):
    """Add up what tests have recorded, in any process."""
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    found = [
        value
        for report in reports
        if getattr(report, "when", "") == "call"
        for kind, value in getattr(report, "user_properties", ())
        if kind == "fault"
    ]
    if found and "faults" in terminalreporter.config.option.markexpr.replace("not faults", ""):
        terminalreporter.section("faults")
        for line in count_lines(found):
            terminalreporter.write_line(line)
