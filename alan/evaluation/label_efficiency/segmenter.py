"""Label efficiency of a fixed network, which learns from no label of the protocol."""

from __future__ import annotations

from dataclasses import dataclass

from alan.data.store.reader import FrameStore
from alan.errors import CheckpointError
from alan.evaluation.label_efficiency.features import Models
from alan.evaluation.label_efficiency.protocol import (
    GridCell,
    LabelEfficiencyProtocol,
    Method,
    Prediction,
    Workspace,
)
from alan.evaluation.splits import check_unseen
from alan.supervised.segmenter import load_segmenter


@dataclass(frozen=True)
class SegmenterMethod(Method):
    """Fixed network, measured with 0 labelled patients.

    Attributes:
        segmenter: Path of the segmenter file.
    """

    segmenter: str

    kind = "segmenter"
    label = "fixed network"
    family = "fixed"
    trainable = False
    paths = ("segmenter",)

    def check(self, protocol: LabelEfficiencyProtocol, store: FrameStore, models: Models) -> None:
        """Check that the network segments all structures and did not learn from the test split."""
        network = models.segmenter(self.segmenter)
        check_unseen(network.provenance, self.segmenter, store, protocol.test_split)
        missing = [name for name in protocol.structures if name not in network.structures]
        if missing:
            known = ", ".join(network.structures)
            raise CheckpointError(f"{self.segmenter} does not segment {missing[0]!r}, only {known}")

    def segment(self, work: Workspace, cell: GridCell) -> Prediction:
        """Segment by the network as it is."""
        return work.predict(load_segmenter(self.segmenter))
