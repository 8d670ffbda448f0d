"""Files of the white boxes of an evaluation."""

from types import SimpleNamespace

import numpy as np
import pandas as pd

from alan.evaluation.whitebox import describe_white_boxes


def test_sources_whose_names_differ_in_signs_have_files_of_their_own():
    none = np.zeros(0)
    names = dict.fromkeys(("interior_", "exterior_", "valve_"), none)
    table = pd.DataFrame({"present": [1]})
    selector = SimpleNamespace(n_parcels_=1, background_id=None, table_=table, **names)
    fits = []
    for name in ("k-means", "k means"):
        segmenter = SimpleNamespace(to_json=lambda name=name: f'"{name}"', selector_=selector)
        box = SimpleNamespace(structure="lv", reasons={}, segmenters={"": segmenter})
        source = SimpleNamespace(name=name)
        fits.append(SimpleNamespace(source=source, rule="beta", names={}, label_dice={"": 1.0}, box=box))
    files, rows = describe_white_boxes(fits)
    assert [files[row["file"]] for row in rows] == ["k-means", "k means"]
