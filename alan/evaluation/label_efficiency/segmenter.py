"""Label efficiency of a fixed network, which learns from no label of the protocol."""

from __future__ import annotations

from dataclasses import dataclass

from alan.data.store.reader import FrameStore
from alan.errors import CheckpointError, SplitLeakError
from alan.evaluation.label_efficiency.features import Models
from alan.evaluation.label_efficiency.protocol import (
    GridCell,
    LabelEfficiencyProtocol,
    Method,
    Prediction,
    Workspace,
)
from alan.supervised.segmenter import Segmenter, load_segmenter


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
        check_unseen(network, self.segmenter, store, protocol.test_split)
        missing = [name for name in protocol.structures if name not in network.structures]
        if missing:
            known = ", ".join(network.structures)
            raise CheckpointError(f"{self.segmenter} does not segment {missing[0]!r}, only {known}")

    def segment(self, work: Workspace, cell: GridCell) -> Prediction:
        """Segment by the network as it is."""
        return work.predict(load_segmenter(self.segmenter))


def check_unseen(network: Segmenter, path: str, store: FrameStore, test_split: str) -> None:
    """Refuse a network that learned from the test split of a store.

    Args:
        network: The network.
        path: Its file, for the message.
        store: Frame store that is measured.
        test_split: Split that is measured.

    Raises:
        SplitLeakError: The network was trained or chosen on the test split.
    """
    origin = network.provenance
    splits = (origin.get("train_split"), origin.get("val_split"))  # a checkpoint may be chosen on the second
    if store.fingerprint in origin.get("stores", ()) and test_split in splits:
        raise SplitLeakError(
            f"{path} learned from the split {test_split!r} of this store, which is measured: give a network that "
            "was trained on other patients"
        )
