"""Simulation of one clip: frames, label maps, volumes and ejection fraction."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from alan.arrays import ByteArray
from alan.data.sample import VIEWS
from alan.data.simulator.acquisition import Acquisition, Physics
from alan.data.simulator.anatomy import PatientAnatomy
from alan.data.simulator.apical import ApicalScene
from alan.data.simulator.cycle import Cycle
from alan.data.simulator.parasternal import LongAxisScene, ShortAxisScene
from alan.data.simulator.pose import ApicalPose
from alan.data.simulator.render import pixel_spacing, render
from alan.data.simulator.scene import Scene
from alan.errors import ParameterError, nearest

#: Smallest and largest side of a frame in pixels.
MIN_SIDE, MAX_SIDE = 32, 1024
_APICAL = ("A4C", "A2C")
_Settings = TypeVar("_Settings", ApicalPose, Acquisition)


@dataclass(frozen=True)
class SimulatedSequence:
    """A simulated clip with its ground truth.

    Attributes:
        view: One of ``alan.data.sample.VIEWS``.
        frames: (T, H, W) uint8, 0 outside the sector.
        labels: (T, H, W) uint8, values as ``alan.data.structures.STRUCTURES``, 0 background.
        contraction: (T,) float64, from 0 at end-diastole to 1 at end-systole.
        phase: (T,) float64 in [0, 1), the fraction of the beat since end-diastole.
        ed: Index of the end-diastolic frame.
        es: Index of the end-systolic frame; both are 0 for a single frame.
        edv_ml: End-diastolic volume of the left ventricle in ml.
        esv_ml: End-systolic volume of the left ventricle in ml.
        ef_percent: Ejection fraction in percent, 100 (EDV - ESV) / EDV.
        spacing_mm: (row, column) size of a pixel in mm.
        fps: Frames per second.
        long_axis: (T, 2, 2) float64, (x, y) in pixels of the apex of the left ventricle and of the centre of its
            base (integers are pixel centres); NaN in views that do not show the whole axis (PLAX, PSAX).
    """

    view: str
    frames: ByteArray
    labels: ByteArray
    contraction: NDArray[np.float64]
    phase: NDArray[np.float64]
    ed: int
    es: int
    edv_ml: float
    esv_ml: float
    ef_percent: float
    spacing_mm: tuple[float, float]
    fps: float
    long_axis: NDArray[np.float64]


def simulate_sequence(
    view: str,
    patient: PatientAnatomy | int,
    *,
    n_frames: int = 16,
    beats: float = 1.0,
    size: int | tuple[int, int] = 112,
    seed: int | Sequence[int] = 0,
    systole_only: bool = False,
    labels_outside: bool = False,
    physics: Physics | None = None,
    pose: Mapping[str, float] | None = None,
    acquisition: Mapping[str, float] | None = None,
) -> SimulatedSequence:
    """Simulate a clip of a beating heart.

    Args:
        view: ``A2C``, ``A4C``, ``PLAX`` or ``PSAX``.
        patient: Anatomy of the patient, or the seed of one; the views of a patient share it.
        n_frames: Number of frames, at least 1 (2 with ``systole_only``).
        beats: Number of heart beats, at least 1; with two or more frames the ED and ES frames are exact.
        size: Side of the square frames in pixels, or (H, W); 32 to 1024.
        seed: Entropy of everything but the patient, a non-negative integer or a sequence of them.
        systole_only: Whether frames run from ED (first) to ES (last), as in CAMUS half sequences; ignores
            ``beats``.
        labels_outside: Whether label maps extend outside the sector, as the manual masks of CAMUS do.
        physics: Strength of each effect; None uses the tuned strengths.
        pose: Fields of ``ApicalPose`` to use instead of the drawn values (A4C and A2C).
        acquisition: Fields of ``Acquisition`` to use instead of the drawn values.

    Returns:
        The clip; the same arguments give the same bytes whatever the number of threads.

    Raises:
        ParameterError: An unknown view or setting, a pose of a view that has none, or a number outside its bounds.
    """
    check_view(view)
    if pose and view not in _APICAL:
        raise ParameterError(f"pose is given for {view}, it places the heart in {' and '.join(_APICAL)} only")
    shape = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    check_shape(shape)
    entropy = [seed] if isinstance(seed, int) else list(seed)
    for number in (*entropy, patient if isinstance(patient, int) else 0):
        if number < 0:
            raise ParameterError(f"seed is {number}: give 0 or more")
    if isinstance(patient, int):
        patient = PatientAnatomy.sample(patient)

    scalars, noise = np.random.SeedSequence([*entropy, VIEWS.index(view)]).spawn(2)
    rng = np.random.default_rng(scalars)
    cycle = Cycle.systole(n_frames, rng) if systole_only else Cycle.beating(n_frames, beats, rng)
    scene = _scene(view, patient, cycle, rng, pose or {})
    acq = Acquisition.sample(patient, scene.needed_depth(), view in _APICAL, rng)
    acq = _replace_fields(acq, acquisition or {})
    generator = torch.Generator().manual_seed(int(noise.generate_state(1, np.uint64)[0] >> 1))
    with one_thread(), torch.no_grad():
        frames, labels = render(scene, acq, physics or Physics(), shape, generator, labels_outside=labels_outside)
        spacing = pixel_spacing(acq, shape)
        axis = _axis_in_pixels(scene, spacing, shape, n_frames)
    edv, esv = patient.volume_ml(0.0), patient.volume_ml(1.0)
    return SimulatedSequence(
        view=view,
        frames=frames.numpy(),
        labels=labels.numpy(),
        contraction=cycle.contraction,
        phase=cycle.phase,
        ed=cycle.ed,
        es=cycle.es,
        edv_ml=edv,
        esv_ml=esv,
        ef_percent=100 * (edv - esv) / edv,
        spacing_mm=spacing,
        fps=cycle.fps,
        long_axis=axis,
    )


def check_shape(shape: tuple[int, int]) -> None:
    """Check the shape of frames.

    Raises:
        ParameterError: A side is outside ``MIN_SIDE`` to ``MAX_SIDE``.
    """
    if not all(MIN_SIDE <= side <= MAX_SIDE for side in shape):
        raise ParameterError(f"size is {shape}: give sides from {MIN_SIDE} to {MAX_SIDE} pixels")


def check_view(view: str) -> None:
    """Check the name of a view.

    Raises:
        ParameterError: The view is unknown; the message offers the nearest name.
    """
    if view not in VIEWS:
        raise ParameterError(f"unknown view {view!r}: {nearest(view, VIEWS)}")


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread, so that the order of sums does not depend on the number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _scene(
    view: str, patient: PatientAnatomy, cycle: Cycle, rng: np.random.Generator, pose: Mapping[str, float]
) -> Scene:
    if view == "PLAX":
        return LongAxisScene(patient, cycle, rng)
    if view == "PSAX":
        return ShortAxisScene(patient, cycle, rng)
    four_chamber = view == "A4C"
    drawn = ApicalPose.sample(patient, four_chamber, rng)
    return ApicalScene(patient, cycle, _replace_fields(drawn, pose), four_chamber)


def _replace_fields(drawn: _Settings, values: Mapping[str, float]) -> _Settings:
    """Replace some of the drawn fields by given values."""
    known = [item.name for item in fields(drawn)]
    for name, value in values.items():
        if name not in known:
            raise ParameterError(f"{type(drawn).__name__} has no field {name!r}: {nearest(name, known)}")
        if isinstance(value, (int, float)) and not math.isfinite(value):
            raise ParameterError(f"{type(drawn).__name__} {name} is {value}: give a finite number")
    given: dict[str, Any] = dict(values)
    return replace(drawn, **given)


def _axis_in_pixels(
    scene: Scene, spacing: tuple[float, float], shape: tuple[int, int], n_frames: int
) -> NDArray[np.float64]:
    axis = scene.long_axis()
    if axis is None:
        return np.full((n_frames, 2, 2), np.nan)
    position = axis.double().numpy() * 10
    return np.stack([position[..., 0] / spacing[1] + shape[1] / 2, position[..., 1] / spacing[0]], -1) - 0.5
