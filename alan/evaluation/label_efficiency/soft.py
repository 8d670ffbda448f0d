"""Label efficiency of a linear probe on the soft scores of parcels."""

from __future__ import annotations

from dataclasses import dataclass, field

from alan.data.store.reader import FrameStore
from alan.downstream.probes.linear import LinearProbe
from alan.evaluation.label_efficiency.features import FeatureFiles, Models
from alan.evaluation.label_efficiency.probe import ProbeMethod
from alan.evaluation.label_efficiency.protocol import Inputs, LabelEfficiencyProtocol


@dataclass(frozen=True)
class SoftLinearMethod(ProbeMethod):
    """Linear probe on the softmax scores of parcels.

    Attributes:
        parcels: Path or name of the parcels file.
        linear: Settings of :class:`alan.downstream.LinearProbe`.
    """

    parcels: str
    linear: LinearProbe = field(default_factory=LinearProbe)

    kind = "soft_linear"
    label = "linear probe on soft parcels"
    paths = ("parcels",)

    @property
    def probe(self) -> LinearProbe:
        """The linear probe."""
        return self.linear

    def check(self, protocol: LabelEfficiencyProtocol, store: FrameStore, models: Models) -> None:
        """Check the settings of the probe, and load the parcels file."""
        super().check(protocol, store, models)
        models.parcels(self.parcels)

    def prepare(self, protocol: LabelEfficiencyProtocol, frames: FeatureFiles, models: Models) -> Inputs:
        """Compute soft scores (n, h, w, K)."""
        model = models.parcels(self.parcels)
        features = frames.dense(
            model,
            lambda batch: model.logits(batch).float().softmax(1).permute(0, 2, 3, 1),
            "soft",
            self.name,
        )
        return Inputs(features, fingerprints=(model.fingerprint,))
