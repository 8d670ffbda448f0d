"""The counts of the campaign, printed at its end: files and commands tried, refused, right and wrong."""

from .counts import count_lines


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
