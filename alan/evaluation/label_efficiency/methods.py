"""Methods of label efficiency besides the probes: parcels by a rule, networks, a fixed network and the atlas."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from alan.data.loaders.labelled import LabelledFrameDataModule
from alan.data.store.reader import FrameStore
from alan.downstream.whitebox.fitting import ALL_PHASES, LabelledMaps, fit_white_box
from alan.downstream.whitebox.rules import RULES, RuleName
from alan.downstream.whitebox.selection import ParcelSelector
from alan.errors import CheckpointError, ParameterError, nearest
from alan.evaluation.baselines import Atlas
from alan.evaluation.label_efficiency.features import FeatureFiles, Models
from alan.evaluation.label_efficiency.protocol import (
    GridCell,
    Inputs,
    LabelEfficiencyProtocol,
    Masks,
    Method,
    Prediction,
    Workspace,
)
from alan.evaluation.maps import check_prior, count_priors
from alan.evaluation.splits import check_unseen
from alan.supervised.module import SegmentationModule
from alan.supervised.segmenter import load_segmenter
from alan.supervised.settings import TrainingSettings
from alan.supervised.training import start_from, train


@dataclass(frozen=True)
class RuleMethod(Method):
    """Parcels selected by a rule. A rule that selects nothing outlines nothing: Dice 0, with the reason.

    Attributes:
        parcels: Path or name of the parcels file.
        rule: Rule of :class:`alan.downstream.ParcelSelector`.
        prior: Frame store of simulated frames, whose ED and ES masks show what each parcel is before any label is
            given (rule ``beta`` only). Such a method is also measured with 0 labelled patients.
        per_phase: Fit one white box for each phase, on its labelled (and simulated) frames alone.
    """

    parcels: str
    rule: RuleName
    prior: str | None = None
    per_phase: bool = False

    kind = "rule"
    label = "parcels by a rule"
    family = "parcels"
    paths = ("parcels",)
    stores = ("prior",)

    @property
    def unlabelled(self) -> bool:
        """Whether a prior can select parcels without any label."""
        return self.prior is not None

    def cleaning(self, protocol: LabelEfficiencyProtocol) -> Any:
        """Return the post-processing."""
        return asdict(protocol.postprocessing)

    def check(self, protocol: LabelEfficiencyProtocol, store: FrameStore, models: Models) -> None:
        """Check the rule, the prior and the parcels file."""
        if self.rule not in RULES:
            raise ParameterError(f"unknown rule {self.rule!r}: {nearest(self.rule, RULES)}")
        if self.prior is not None:
            if self.rule != "beta":
                raise ParameterError(f"rule {self.rule!r} has no prior: use rule beta, or leave the prior out")
            check_prior(self.prior, protocol.structures, store)
        models.parcels(self.parcels)

    def prepare(self, protocol: LabelEfficiencyProtocol, frames: FeatureFiles, models: Models) -> Inputs:
        """Compute parcel maps and count the prior."""
        model = models.parcels(self.parcels)
        features = frames.parcel_maps(model, self.name)
        priors = {}
        if self.prior is not None:
            priors = count_priors(
                model,
                FrameStore(self.prior),
                protocol.structures,
                phases=self._phases(protocol),
                folder=frames.folder,
                batch_size=protocol.batch_size,
            )
        sources = (model.fingerprint, *(prior.to_json() for prior in priors.values()))
        return Inputs(features, priors, sources)

    def segment(self, work: Workspace, cell: GridCell) -> Prediction:
        """Fit one white box for each structure, and for each phase if asked for."""
        label, test = work.features(cell)
        rows, inputs = work.rows(cell), work.inputs[self.name]
        assert inputs.features is not None  # prepared above
        table, phases = work.splits.label.iloc[rows], self._phases(work.protocol)
        masks: Masks = {}
        reasons: dict[str, str] = {}
        for value, name in enumerate(work.protocol.structures, 1):
            given = np.asarray(work.label_maps[rows] == value)
            labels = LabelledMaps(label, given, table["patient"].to_numpy(), table["phase"].to_numpy())
            box = fit_white_box(
                inputs.features,
                name,
                labels if cell.patients != 0 else None,
                ParcelSelector(self.rule),
                steps=work.protocol.postprocessing,
                phases=phases,
                priors={phase: inputs.priors[name, phase] for phase in phases} if inputs.priors else None,
            )
            masks[name] = box.predict(test, work.splits.test["phase"].to_numpy())
            if not box.complete:
                reasons[name] = "; ".join(f"{phase}: {why}".lstrip(": ") for phase, why in box.reasons.items())
        return Prediction(masks, reasons)

    def _phases(self, protocol: LabelEfficiencyProtocol) -> tuple[str, ...]:
        return protocol.phases if self.per_phase else (ALL_PHASES,)


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
