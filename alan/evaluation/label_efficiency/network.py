"""Label efficiency of a network that is trained on the frames themselves."""

from __future__ import annotations

from dataclasses import dataclass

from alan.data.loaders.labelled import LabelledFrameDataModule
from alan.data.store.reader import FrameStore
from alan.evaluation.label_efficiency.features import Models
from alan.evaluation.label_efficiency.protocol import (
    GridCell,
    LabelEfficiencyProtocol,
    Method,
    Prediction,
    Workspace,
)
from alan.evaluation.splits import check_unseen
from alan.supervised.module import SegmentationModule
from alan.supervised.settings import TrainingSettings
from alan.supervised.training import start_from, train


@dataclass(frozen=True)
class NetworkMethod(Method):
    """Network trained on the labelled frames for a fixed number of steps.

    Attributes:
        network: Settings of the training. The last weights are measured, so no label is spent on choosing a
            checkpoint.
        init: Segmenter file whose weights the training starts from. The rows of its last convolution go to the
            structures of the same name.
    """

    network: TrainingSettings
    init: str | None = None

    kind = "network"
    label = "network trained on the frames"
    family = "network"
    stochastic = True
    paths = ("init",)

    @property
    def pretrained(self) -> bool:
        """Whether the training starts from a segmenter file."""
        return self.init is not None

    def check(self, protocol: LabelEfficiencyProtocol, store: FrameStore, models: Models) -> None:
        """Build the network once, and check that the start fits it."""
        module = SegmentationModule.from_settings(self.network, protocol.structures, 0)
        if self.init is not None:
            source = models.segmenter(self.init)
            start_from(module, source, self.init)
            check_unseen(source.provenance, self.init, store, protocol.test_split)

    def segment(self, work: Workspace, cell: GridCell) -> Prediction:
        """Train for the given number of steps and predict with the last weights."""
        protocol = work.protocol
        data = LabelledFrameDataModule(
            [protocol.store],
            list(protocol.structures),
            train_split=protocol.label_split,
            val_split=protocol.test_split,  # never read: the data module checks that the splits share no patient
            views=None if protocol.views is None else list(protocol.views),
            phases=protocol.phases,
            label_patients=cell.patients,
            seed=cell.seed,
        )
        data.setup()
        return work.predict(train(self.network, data.train_frames, cell.seed, start=self.init))
