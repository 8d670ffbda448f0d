"""The chart of active learning."""

from alan.report.active import curve_chart


def test_the_band_ends_where_seeds_are_missing():
    rows = [
        {"n_labels": labels, "mean": mean, "low": mean - 0.1, "high": mean + 0.1, "seeds": seeds}
        for labels, mean, seeds in ((10, 0.5, 2), (20, 0.6, 2), (30, 0.7, 1))
    ]
    results = {
        "curves": [{"function": "random", **row} for row in rows],
        "loop": {"seeds": [0, 1]},
        "measured": {"split": "val"},
        "structures": ["lv"],
    }
    axes = curve_chart(results).axes[0]
    assert list(axes.lines[0].get_xdata()) == [10, 20, 30]
    (band,) = axes.collections
    assert band.get_paths()[0].vertices[:, 0].max() == 20
