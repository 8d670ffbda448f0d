import io

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from PIL import Image

from alan.drawing import png
from alan.report import figures
from alan.report.agreement import bland_altman


def test_every_measured_cell_has_a_point_at_its_value(results):
    figure = figures.method_chart(results["segmentation"])
    (axes,) = figure.axes
    points = sorted(round(float(line.get_xdata()[0]), 3) for line in axes.lines if len(line.get_xdata()) == 1)
    assert points == [0.7, 0.71, 0.75, 0.8]
    results["segmentation"]["published"] = "camus"
    assert len(figures.method_chart(results["segmentation"]).axes[0].lines) == len(axes.lines) + 8


def test_figures_are_png_and_large_enough_to_read(results):
    image = Image.open(io.BytesIO(png(figures.method_chart(results["segmentation"]))))
    assert image.format == "PNG"
    assert image.width > 800


def test_histograms_count_every_case(results):
    names = {"method": "RAPTOR", "kind": "parcels", "rule": "greedy", "structure": "lv", "phase": "ED"}
    cases = pd.DataFrame([{**names, "dice": value} for value in (0.02, 0.51, 0.52, 0.99, float("nan"))])
    figure = figures.dice_histograms(cases, results["segmentation"])
    assert sum(patch.get_height() for patch in figure.axes[0].patches) == 4
    results["segmentation"]["example_methods"] = {}
    assert figures.dice_histograms(cases, results["segmentation"]) is None


def test_overlays_draw_each_parcel_border():
    maps = np.zeros((1, 8, 8), np.uint8)
    maps[0, :, 4:] = 1  # one straight border of 8 pixel sides
    masks = maps.astype(bool)
    arrays = {"frames": maps, "maps": maps, "manual": masks, "predicted": np.zeros_like(masks)}
    example = {"structure": "lv", "phase": "ED", "rank": "best", "dice": 0.5}
    figure = figures.overlays(arrays, [example], "lv")
    bottom = figure.axes[1]
    borders = next(c for c in bottom.collections if type(c) is LineCollection)
    assert len(borders.get_segments()) == 8
    assert {float(x) for segment in borders.get_segments() for x in segment[:, 0]} == {3.5}
    assert figure.axes[0].get_title() == "ED, best\nDice 50.0%"
    assert figures.overlays(arrays, [example], "la") is None
    for reference in ("manual", "simulated"):
        legend = figures.overlays(arrays, [example], "lv", reference).legends[0]
        assert [text.get_text() for text in legend.texts][:2] == [reference, "predicted"]


def test_confusion_matrix_shows_counts_and_shares():
    row = {"method": "backbone", "k": 10, "confusion": [[3, 1], [0, 0]]}
    axes = figures.confusion_figure({"views": ["A2C", "A4C"]}, row).axes[0]
    assert [text.get_text() for text in axes.texts] == ["3\n75%", "1\n25%", "0\n0%", "0\n0%"]


@pytest.mark.parametrize(
    ("columns", "lines"),
    [
        ({"train/loss": [2.0, 1.0]}, 1),
        ({"knn": [0.1, 0.2]}, 0),
        ({f"loss_{n}": [2.0, 1.0] for n in range(20)}, 20),
    ],
)
def test_the_training_curve_is_drawn(columns, lines):
    figure = figures.training_curve(pd.DataFrame({"step": [0, 5], **columns}), "DINO")
    assert (0 if figure is None else len(figure.axes[0].lines)) == lines
    if figure is not None:  # the style of all figures
        assert figure.axes[0].spines["top"].get_visible() == figures.STYLE["axes.spines.top"]


def test_the_bland_altman_plot_draws_every_loop(results):
    names = {"method": "RAPTOR", "kind": "parcels", "rule": "greedy", "structure": "lv"}
    rows = []
    for number, (esv, manual) in enumerate([(40.0, 50.0), (55.0, 50.0), (9000.0, 50.0)]):
        for phase, volume, true in (("ED", 100.0, 100.0), ("ES", esv, manual)):
            case = {**names, "id": str(number), "patient": str(number), "phase": phase}
            rows.append({**case, "volume": volume, "volume_manual": true})
    for number in range(3, 80):  # so that the third loop is an outlier
        rows += [{**row, "id": str(number), "patient": str(number)} for row in rows[:2]]
    figure = bland_altman(pd.DataFrame(rows), results["segmentation"])
    (axes,) = figure.axes
    points, beyond = (next(line for line in axes.lines if line.get_marker() == marker) for marker in "o^")
    assert axes.get_ylabel() == "predicted − manual EF (points)"
    simulated = bland_altman(pd.DataFrame(rows), results["segmentation"], "simulated")
    assert simulated.axes[0].get_ylabel() == "predicted − simulated EF (points)"
    assert len(points.get_xdata()) == 79
    assert (points.get_xdata()[0], points.get_ydata()[0]) == (55.0, 10.0)  # 60% and 50%
    assert len(beyond.get_xdata()) == 1
    heights = {line.get_ydata()[0] for line in axes.lines if line.get_marker() == "None"}
    assert heights == {0, -1.9, -14.1, 10.3}
    results["segmentation"]["ejection_fraction"] = []
    assert bland_altman(pd.DataFrame(rows), results["segmentation"]) is None
