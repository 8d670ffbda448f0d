"""The counts of the campaign, printed at its end: files and commands tried, refused, right and wrong."""

from collections import Counter


def pytest_terminal_summary(terminalreporter):
    """Add up what tests have recorded as ("fault", (verb or file kind, fault, result)), in any process."""
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    counts = {}
    for report in reports:
        for kind, value in getattr(report, "user_properties", ()) if getattr(report, "when", "") == "call" else ():
            if kind == "fault":
                name, fault, result, *number = value
                found = counts.setdefault((name, fault), Counter())
                found[result] += number[0] if number else 1
                found["tried"] += number[0] if number else 1
    if not counts or "faults" not in terminalreporter.config.option.markexpr.replace("not faults", ""):
        return
    terminalreporter.section("faults")
    names = sorted({name for name, _ in counts})
    totals = [((name, "all"), sum((c for (n, _), c in counts.items() if n == name), Counter())) for name in names]
    rows = [*sorted(counts.items()), *totals, (("all", "all"), sum(counts.values(), Counter()))]
    for (name, fault), count in rows:
        numbers = "  ".join(f"{word} {count[word]:6}" for word in ("tried", "refused", "right", "wrong"))
        terminalreporter.write_line(f"{name:30} {fault:36} {numbers}")
