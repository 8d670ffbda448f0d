"""Label efficiency of the average mask, which ignores the image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alan.evaluation.baselines import Atlas
from alan.evaluation.label_efficiency.protocol import GridCell, Method, Prediction, Workspace


@dataclass(frozen=True)
class AtlasMethod(Method):
    """Average mask of the labelled frames, see :class:`alan.evaluation.baselines.Atlas`."""

    kind = "atlas"
    label = "average mask"
    family = "atlas"

    def segment(self, work: Workspace, cell: GridCell) -> Prediction:
        """Average the masks of each structure."""
        label_maps, masks, reasons = work.label_maps[work.rows(cell)], {}, {}
        for value, name in enumerate(work.protocol.structures, 1):
            given = label_maps == value
            if given.any():
                masks[name] = Atlas().fit(given).predict(len(work.test_maps))
            else:
                masks[name], reasons[name] = np.zeros(work.test_maps.shape, bool), "no labelled frame shows it"
        return Prediction(masks, reasons)
