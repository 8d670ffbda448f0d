"""The methods that a label-efficiency protocol compares: what each is made of, checked before the long work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import nn

from alan.backbone.conv import Level
from alan.backbone.normalise import Normalisation
from alan.data.store.reader import FrameStore
from alan.downstream.readouts.decoder import DecoderReadout
from alan.downstream.readouts.linear import LinearReadout
from alan.downstream.whitebox.rules import RULES
from alan.errors import CheckpointError, ParameterError, SplitLeakError, nearest
from alan.supervised.module import SegmentationModule
from alan.supervised.networks import NetworkSpec
from alan.supervised.segmenter import Segmenter, load_segmenter

#: Kind of a method to the keys that it needs, and those that it may have.
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "rule": (("parcels", "rule"), ("prior", "per_phase")),
    "linear": (("backbone",), ("input_size", "stride", "feature_levels", "linear")),
    "soft_linear": (("parcels",), ("linear",)),
    "decoder": (("backbone",), ("input_size", "stride", "feature_levels", "decoder")),
    "network": (("network",), ("init",)),
    "segmenter": (("segmenter",), ()),
    "atlas": ((), ()),
}
#: Kinds whose result depends on the seed through the patients drawn alone.
DETERMINISTIC = ("rule", "linear", "soft_linear", "atlas")
_KEYS = (
    "parcels",
    "rule",
    "prior",
    "per_phase",
    "backbone",
    "input_size",
    "stride",
    "feature_levels",
    "segmenter",
    "init",
    "linear",
    "decoder",
    "network",
)


@dataclass(frozen=True)
class LinearTraining:
    """Settings of :class:`alan.downstream.LinearReadout`, explained there."""

    l2: float = 1e-3
    max_tokens: int | None = 200_000
    max_iter: int = 200


@dataclass(frozen=True)
class DecoderTraining:
    """Settings of :class:`alan.downstream.DecoderReadout`, explained there."""

    width: int = 48
    dropout: float = 0.1
    steps: int = 300
    batch_size: int = 8
    lr: float = 3e-3
    weight_decay: float = 1e-2


@dataclass(frozen=True)
class NetworkTraining:
    """Training of a network from frames: settings of :class:`alan.supervised.SegmentationModule`.

    Attributes:
        network: the network.
        losses: name of a loss to its weight.
        optimiser: ``adam`` or ``adamw``.
        lr: learning rate.
        weight_decay: of the optimiser.
        schedule: ``constant``, or ``cosine`` down to 0 over the run.
        normalisation: of grey values.
        augmentation: name of a preset.
        steps: optimiser steps; the last weights are taken, so no label is spent on choosing a checkpoint.
        batch_size: frames a step; with fewer labelled frames a step takes all of them.
        precision: Lightning's; on CPUs with bf16, ``bf16-mixed`` is twice as fast.
    """

    network: NetworkSpec = field(default_factory=NetworkSpec)
    losses: dict[str, float] = field(default_factory=lambda: {"cross_entropy": 1.0, "dice": 1.0})
    optimiser: Literal["adam", "adamw"] = "adamw"
    lr: float = 2e-3
    weight_decay: float = 1e-3
    schedule: Literal["constant", "cosine"] = "cosine"
    normalisation: Normalisation = "sector"
    augmentation: str = "echo"
    steps: int = 400
    batch_size: int = 16
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"


@dataclass(frozen=True)
class Method:
    """One line of the figure.

    Attributes:
        name: as shown.
        kind: ``rule`` (parcels chosen by a selection rule), ``linear`` (read-out of a backbone's tokens),
            ``soft_linear`` (the same on the soft scores of a parcels file), ``decoder`` (a light decoder on a
            backbone's tokens), ``network`` (trained on the frames), ``segmenter`` (a fixed network, no labels
            of this draw) or ``atlas`` (the average mask).
        parcels: kinds ``rule`` and ``soft_linear``: path of the parcels file.
        rule: kind ``rule``: a rule of :class:`alan.downstream.ParcelSelector`.
        prior: rule ``beta``: a frame store of simulated frames, whose ED and ES masks say what each parcel is
            before any label is given; such a method is also measured with 0 labelled patients.
        per_phase: kind ``rule``: a list for each phase, learnt from its labelled frames (and its simulated ones)
            alone and used on its test frames; None and false: one list for all.
        backbone: kinds ``linear`` and ``decoder``: path or name of the backbone.
        input_size: side to which the backbone resizes frames; None is its own.
        stride: step between its patches; None is its own.
        feature_levels: levels of a convolutional backbone whose maps are its tokens; None is its own.
        segmenter: kind ``segmenter``: path of a segmenter file.
        init: kind ``network``: a segmenter file whose weights the training starts from; the rows of its last
            convolution go to the structures of the same name.
        linear: settings of the linear read-out.
        decoder: settings of the decoder.
        network: settings of the network.
    """

    name: str
    kind: str
    parcels: str | None = None
    rule: str | None = None
    prior: str | None = None
    per_phase: bool | None = None
    backbone: str | None = None
    input_size: int | None = None
    stride: int | None = None
    feature_levels: tuple[Level, ...] | None = None
    segmenter: str | None = None
    init: str | None = None
    linear: LinearTraining | None = None
    decoder: DecoderTraining | None = None
    network: NetworkTraining | None = None

    def files(self) -> list[str]:
        """Paths and names of what the method reads, apart from frame stores."""
        return [x for x in (self.parcels, self.backbone, self.segmenter, self.init) if x is not None]


def check_methods(
    methods: Sequence[Method], structures: Sequence[str], store_fingerprint: str, test_split: str
) -> None:
    """Refuse methods that cannot be carried out, before anything is computed.

    Args:
        methods: the methods.
        structures: structures to segment.
        store_fingerprint: of the frame store.
        test_split: the side that is measured.

    Raises:
        ParameterError: no method, a name given twice, an unknown kind or rule, a key that is missing or that the
            kind does not have, or a setting out of range.
        CheckpointError: a segmenter file that cannot be read, lacks a structure, or does not fit the network.
        DataError: a prior's store that is not there or lacks a structure.
        SplitLeakError: a segmenter that learnt from the test side of this store, or a prior counted on it.
    """
    if not methods:
        raise ParameterError("methods is empty: give at least one, for example {name: atlas, kind: atlas}")
    names = [method.name for method in methods]
    for name in names:
        if not name or names.count(name) > 1:
            raise ParameterError(f"method {name!r}: give every method a name of its own")
    for method in methods:
        _check_keys(method)
        if method.rule is not None and method.rule not in RULES:
            raise ParameterError(
                f"method {method.name!r}: unknown rule {method.rule!r}: {nearest(method.rule, RULES)}"
            )
        if method.prior is not None:
            if method.rule != "beta":
                raise ParameterError(f"method {method.name!r}: rule {method.rule!r} has no prior: use rule beta")
            prior = FrameStore(method.prior)
            prior.check_structures(structures)
            if prior.fingerprint == store_fingerprint:
                raise SplitLeakError(
                    f"method {method.name!r}: its prior is counted on the store that is measured: give a store of "
                    "simulated frames"
                )
        if method.kind in ("linear", "soft_linear"):
            linear_readout(method, len(structures) + 1).check_parameters()
        if method.kind == "decoder":
            decoder_readout(method, len(structures) + 1, 0).check_parameters()
        if method.network is not None:
            _check_network(method, structures)
        for path in (method.segmenter, method.init):
            if path is not None:
                _check_source(method, load_segmenter(path), path, store_fingerprint, test_split)
        if method.segmenter is not None:
            _check_structures(method, load_segmenter(method.segmenter), structures)


def _check_keys(method: Method) -> None:
    if method.kind not in KINDS:
        raise ParameterError(
            f"method {method.name!r}: unknown kind {method.kind!r}: {nearest(method.kind, KINDS)}"
        )
    needed, optional = KINDS[method.kind]
    for key in _KEYS:
        given = getattr(method, key) is not None
        if key in needed and not given:
            raise ParameterError(f"method {method.name!r} of kind {method.kind!r} needs {key}")
        if given and key not in (*needed, *optional):
            takes = ", ".join((*needed, *optional)) or "nothing"
            raise ParameterError(f"method {method.name!r} of kind {method.kind!r} has no {key}: it takes {takes}")


def _check_network(method: Method, structures: Sequence[str]) -> None:
    training = method.network or NetworkTraining()
    if training.steps < 1 or training.batch_size < 1:
        raise ParameterError(
            f"method {method.name!r}: steps is {training.steps}, batch_size {training.batch_size}; "
            "give 1 or more of each"
        )
    module = network_module(training, structures, 0)
    if method.init is not None:
        start_from(module, load_segmenter(method.init), method.init)


def _check_source(method: Method, source: Segmenter, path: str, store_fingerprint: str, test_split: str) -> None:
    learnt = source.provenance
    sides = (learnt.get("train_split"), learnt.get("val_split"))  # a checkpoint may be chosen on the second
    if store_fingerprint in learnt.get("stores", ()) and test_split in sides:
        raise SplitLeakError(
            f"method {method.name!r}: {path} learnt from the split {test_split!r} of this store, which is measured"
        )


def _check_structures(method: Method, source: Segmenter, structures: Sequence[str]) -> None:
    lacking = [name for name in structures if name not in source.structures]
    if lacking:
        held = ", ".join(source.structures)
        raise CheckpointError(
            f"method {method.name!r}: {method.segmenter} does not segment {lacking[0]!r}, only {held}"
        )


def linear_readout(method: Method, n_classes: int, provenance: str = "") -> LinearReadout:
    """The linear read-out of a method, not fitted."""
    given = method.linear or LinearTraining()
    return LinearReadout(
        given.l2,
        max_tokens=given.max_tokens,
        max_iter=given.max_iter,
        n_classes=n_classes,
        provenance=provenance,
    )


def decoder_readout(method: Method, n_classes: int, seed: int, provenance: str = "") -> DecoderReadout:
    """The decoder of a method, not fitted."""
    given = method.decoder or DecoderTraining()
    return DecoderReadout(
        given.width,
        dropout=given.dropout,
        steps=given.steps,
        batch_size=given.batch_size,
        lr=given.lr,
        weight_decay=given.weight_decay,
        n_classes=n_classes,
        seed=seed,
        provenance=provenance,
    )


def network_module(training: NetworkTraining, structures: Sequence[str], seed: int) -> SegmentationModule:
    """The Lightning module of a network's training."""
    return SegmentationModule(
        structures=list(structures),
        losses=training.losses,
        network=training.network,
        optimiser=training.optimiser,
        lr=training.lr,
        weight_decay=training.weight_decay,
        schedule=training.schedule,
        normalisation=training.normalisation,
        augmentation=training.augmentation,
        seed=seed,
    )


def start_from(module: SegmentationModule, source: Segmenter, path: str) -> None:
    """Take the weights of a fitted segmenter over as the start of a training.

    The last convolution's rows are matched by the names of the structures; the source may know more of them.

    Args:
        module: the training, changed in place.
        source: the segmenter.
        path: its file, for messages.

    Raises:
        CheckpointError: another network, another normalisation, or a structure that the source does not know.
    """
    settings = source.settings()
    wanted = replace(module.spec, encoder_weights=None).to_dict()
    for name, mine in (("network", wanted), ("normalisation", module.model.normalisation)):
        if settings[name] != mine:
            raise CheckpointError(f"{path}: cannot start from it: its {name} is {settings[name]}, not {mine}")
    lacking = [name for name in module.structures if name not in source.structures]
    if lacking or (len(module.structures) == 1) != (len(source.structures) == 1):
        raise CheckpointError(
            f"{path}: cannot start from it: it segments {', '.join(source.structures)}, asked for are "
            f"{', '.join(module.structures)}"
        )
    state = dict(source.model.state_dict())
    if len(module.structures) > 1:
        rows = [0, *(1 + source.structures.index(name) for name in module.structures)]
        for name in _last_convolution(module.model):
            state[name] = state[name][rows]
    module.model.load_state_dict(state)


def _last_convolution(model: nn.Module) -> list[str]:
    """Names of the weights of the segmentation head's last convolution."""
    last = [
        name for name, part in model.named_modules() if "segmentation_head" in name and isinstance(part, nn.Conv2d)
    ]
    return [f"{last[-1]}.{name}" for name, _ in model.get_submodule(last[-1]).named_parameters()]
