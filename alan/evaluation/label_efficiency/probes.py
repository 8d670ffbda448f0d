"""Label efficiency of probes: a linear model or a light decoder on tokens, or a linear model on soft parcels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from sklearn.base import clone
from torch import Tensor

from alan.backbone.base import Backbone
from alan.backbone.conv import FeatureLevel
from alan.data.store.reader import FrameStore
from alan.downstream.probes.base import TokenProbe
from alan.downstream.probes.decoder import DecoderProbe
from alan.downstream.probes.linear import LinearProbe
from alan.evaluation.label_efficiency.features import FeatureFiles, Models
from alan.evaluation.label_efficiency.protocol import (
    GridCell,
    Inputs,
    LabelEfficiencyProtocol,
    Method,
    Prediction,
    Workspace,
)


@dataclass(frozen=True)
class ProbeMethod(Method):
    """Base of the probes: fits an estimator on features of frozen models, one vector per position of a grid.

    Attributes:
        estimator: Name of the field that holds the estimator with its settings, not fitted.
    """

    family = "probe"
    estimator: ClassVar[str] = "linear"

    @property
    def probe(self) -> TokenProbe:
        """The estimator with its settings, not fitted."""
        probe: TokenProbe = getattr(self, self.estimator)
        return probe

    def check(self, protocol: LabelEfficiencyProtocol, store: FrameStore, models: Models) -> None:
        """Check the settings of the estimator."""
        clone(self.probe).check_parameters()

    def segment(self, work: Workspace, cell: GridCell) -> Prediction:
        """Fit the estimator and predict label maps."""
        label, test = work.features(cell)
        features = work.inputs[self.name].features
        options: dict[str, Any] = {"n_classes": len(work.protocol.structures) + 1, "size": None}
        options |= {"provenance": features.fingerprint if features else ""}
        options |= {"seed": cell.seed} if self.stochastic else {}
        probe = clone(self.probe).set_params(**options)
        return work.clean(probe.fit(label, work.label_maps[work.rows(cell)]).predict(test))


@dataclass(frozen=True)
class TokenMethod(ProbeMethod):
    """Base of the probes on the tokens of a frozen backbone.

    Attributes:
        backbone: Path or name of the backbone.
        input_size: Size in pixels to which the backbone resizes frames; null keeps its own.
        stride: Step in pixels between its patches; null keeps its own.
        feature_levels: Levels of a convolutional backbone whose maps are its tokens; null keeps its own.
    """

    backbone: str
    input_size: int | None = None
    stride: int | None = None
    feature_levels: tuple[FeatureLevel, ...] | None = None

    paths = ("backbone",)

    def _load(self, models: Models) -> Backbone:
        levels = None if self.feature_levels is None else tuple(self.feature_levels)
        return models.backbone(
            self.backbone, input_size=self.input_size, stride=self.stride, feature_levels=levels
        )

    def check(self, protocol: LabelEfficiencyProtocol, store: FrameStore, models: Models) -> None:
        """Check the settings of the estimator, and load the backbone."""
        super().check(protocol, store, models)
        self._load(models)

    def prepare(self, protocol: LabelEfficiencyProtocol, frames: FeatureFiles, models: Models) -> Inputs:
        """Compute tokens (n, h, w, D)."""
        model = self._load(models)
        features = frames.dense(model, lambda batch: model(batch).tokens, "tokens", self.name)
        return Inputs(features, fingerprints=(model.fingerprint,))


@dataclass(frozen=True)
class LinearMethod(TokenMethod):
    """Linear probe on tokens.

    Attributes:
        linear: Settings of :class:`alan.downstream.LinearProbe`.
    """

    linear: LinearProbe = field(default_factory=LinearProbe)

    kind = "linear"
    label = "linear probe on tokens"


@dataclass(frozen=True)
class DecoderMethod(TokenMethod):
    """Light convolutional decoder on tokens; the seed of a cell also starts its training.

    Attributes:
        decoder: Settings of :class:`alan.downstream.DecoderProbe`.
    """

    decoder: DecoderProbe = field(default_factory=DecoderProbe)

    kind = "decoder"
    label = "light decoder on tokens"
    stochastic = True
    estimator = "decoder"


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

    def check(self, protocol: LabelEfficiencyProtocol, store: FrameStore, models: Models) -> None:
        """Check the settings of the probe, and load the parcels file."""
        super().check(protocol, store, models)
        models.parcels(self.parcels)

    def prepare(self, protocol: LabelEfficiencyProtocol, frames: FeatureFiles, models: Models) -> Inputs:
        """Compute soft scores (n, h, w, K)."""
        model = models.parcels(self.parcels)

        def scores(batch: Tensor) -> Tensor:
            return model.logits(batch).softmax(1).permute(0, 2, 3, 1)

        return Inputs(frames.dense(model, scores, "soft", self.name), fingerprints=(model.fingerprint,))
