"""Figures of a search show the numbers of the tables."""

from alan.report.search_figures import history


def test_history_numbers_trials_as_the_table_does():
    trials = [
        {"trial": 0, "state": "complete", "iou": 0.5},
        {"trial": 2, "state": "pruned", "iou": 0.3},  # trial 1 was dropped
        {"trial": 3, "state": "complete", "iou": 0.4},
        {"trial": 5, "state": "failed", "iou": None},
    ]
    axes = history(trials).axes[0]
    places = {line.get_label(): list(line.get_xdata()) for line in axes.lines}
    assert places == {"best so far": [0, 3, 5], "trial": [0, 3], "stopped early": [2], "failed": [5]}
    assert list(axes.lines[0].get_ydata()) == [0.5, 0.5, 0.5]
    low, high = axes.get_xlim()
    assert low < 0
    assert high > 5
