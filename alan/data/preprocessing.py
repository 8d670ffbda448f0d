"""Resizing of frames and masks to one square size or one pixel size, and of masks back to the original size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from alan.arrays import BoolArray, ByteArray, Float32Array
from alan.bounds import PositiveFloat, PositiveInt, bounded
from alan.data.sample import Sample
from alan.data.structures import label_value
from alan.errors import DataError, ParameterError
from alan.files import fingerprint

if TYPE_CHECKING:
    import torch

Pixel = TypeVar("Pixel", np.bool_, np.uint8)

#: Largest number of frames and of pixels that are resized at once, which bound the memory.
_CHUNK, _PIXELS = 32, 2**23


@bounded
@dataclass(frozen=True)
class Preprocessing:
    """Resize images and masks together to ``size`` x ``size``.

    Frames are resized bilinearly with antialiasing (pixel centres at half-integers). Masks are resampled in the
    same way as membership images of 0 and 1, one for each structure and one for the background, and each pixel
    takes the largest membership. Image and mask thus share one geometry, without the half-pixel offset of
    nearest-neighbour sampling; a single structure is cut at one half, which preserves areas; no gap opens where
    three structures meet; and masks stay disjoint.

    Args:
        size: Side of the output in pixels.
        keep_aspect: Whether to scale both sides by the same factor and pad the shorter one centrally with zeros;
            otherwise the frame is stretched. The aspect is that of the array: pixels that are not square stay so,
            which the spacing records.
        pixel_mm: Size of an output pixel in mm, to which frames are resampled by their spacing before they are
            cropped or padded centrally with zeros; None fits the whole frame into the output instead.

    Raises:
        ParameterError: ``keep_aspect`` and ``pixel_mm`` are both given.

    Examples:
        >>> preprocessing = Preprocessing(112, keep_aspect=True)
        >>> preprocessing.restore(np.ones((1, 112, 112), bool), (600, 800)).shape
        (1, 600, 800)
    """

    size: PositiveInt = 112
    keep_aspect: bool = False
    pixel_mm: PositiveFloat | None = None

    def __post_init__(self) -> None:
        if self.keep_aspect and self.pixel_mm is not None:
            raise ParameterError(
                "keep_aspect is True and pixel_mm is set, which keeps the aspect in any case: give one of them"
            )

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of everything that determines the output."""
        return fingerprint({"preprocessing": 1, **self.to_dict()})

    def to_dict(self) -> dict[str, Any]:
        """Return the arguments of the constructor, JSON-able: ``Preprocessing(**p.to_dict()) == p``."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def apply(self, sample: Sample) -> Sample:
        """Resize a sample.

        Args:
            sample: A sample with frames (T, H, W) and masks (M, H, W) of any size.

        Returns:
            The sample at (size, size), with the spacing of its new pixels. A sample that has this size already is
            returned unchanged, unless ``pixel_mm`` is set.

        Raises:
            DataError: ``pixel_mm`` is set, and the pixel size of the sample is unknown.
        """
        shape = (sample.frames.shape[1], sample.frames.shape[2])
        if shape == (self.size, self.size) and self.pixel_mm is None:
            return sample
        if sample.spacing is None and self.pixel_mm is not None:
            raise DataError(f"{sample.record.id}: its pixel size is unknown: leave pixel_mm out, or give the size")
        resized: tuple[int, int] = self._resized_shape(shape, sample.spacing)
        inner, part = self._overlap(resized)
        frames = np.zeros((len(sample.frames), self.size, self.size), np.uint8)
        frames[inner] = resize_frames(sample.frames, resized)[part]
        masks: dict[str, BoolArray] = {}
        if sample.masks:
            maps = np.zeros((len(sample.mask_frames), self.size, self.size), np.uint8)
            values = {name: label_value(name, sample.label_names) for name in sample.masks}
            maps[inner] = _resize_labels(sample.label_maps(), list(values.values()), resized)[part]
            masks = {name: maps == value for name, value in values.items()}
        spacing = None if sample.spacing is None else self.resized_spacing(shape, sample.spacing)
        return replace(sample, frames=frames, masks=masks, spacing=spacing)

    def resized_spacing(self, shape: tuple[int, int], spacing: tuple[float, float]) -> tuple[float, float]:
        """Return the (row, column) size in mm of an output pixel.

        Args:
            shape: (H, W) of the original frames.
            spacing: (row, column) size of an original pixel in mm.
        """
        resized = self._resized_shape(shape, spacing)
        return spacing[0] * shape[0] / resized[0], spacing[1] * shape[1] / resized[1]

    def restore(
        self, maps: NDArray[Pixel], shape: tuple[int, int], spacing: tuple[float, float] | None = None
    ) -> NDArray[Pixel]:
        """Restore masks or label maps to the original resolution: the geometric inverse of :meth:`apply`.

        Args:
            maps: (N, size, size), bool for masks of one structure or uint8 for label maps (0 is background).
            shape: (H, W) of the original frames.
            spacing: (row, column) size of an original pixel in mm; needed if ``pixel_mm`` is set.

        Returns:
            (N, H, W) of the same dtype, each pixel by its largest membership; pixels on the padding are lost,
            and pixels that were cropped off are background. Maps that have this size already are returned
            unchanged, unless ``pixel_mm`` is set.

        Raises:
            ParameterError: The maps have another size or dtype, or the spacing is missing.
        """
        if maps.ndim != 3 or maps.shape[1:] != (self.size, self.size) or maps.dtype not in (np.bool_, np.uint8):
            raise ParameterError(
                f"maps are {maps.dtype} {maps.shape}: give bool or uint8 (N, {self.size}, {self.size})"
            )
        if shape == (self.size, self.size) and self.pixel_mm is None:
            return maps
        resized: tuple[int, int] = self._resized_shape(shape, spacing)
        inner, part = self._overlap(resized)
        whole: ByteArray = np.zeros((len(maps), *resized), np.uint8)
        whole[part] = maps[inner]
        values = [int(value) for value in np.unique(whole) if value]
        return _resize_labels(whole, values, shape).astype(maps.dtype)

    def _resized_shape(self, shape: tuple[int, int], spacing: tuple[float, float] | None) -> tuple[int, int]:
        """Compute height and width of the whole frame at the resolution of the output."""
        height: float
        width: float
        if self.pixel_mm is not None:
            if spacing is None:
                raise ParameterError("spacing is None: give the size of an original pixel, which pixel_mm needs")
            height, width = (n * mm / self.pixel_mm for n, mm in zip(shape, spacing, strict=True))
        elif self.keep_aspect:
            height, width = (n * (self.size / max(shape)) for n in shape)
        else:
            height = width = self.size
        return max(1, round(height)), max(1, round(width))

    def _overlap(self, resized: tuple[int, int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """Find the overlap of the output and the resized frame: index into the output, index into the frame."""
        offsets = [(self.size - length) // 2 for length in resized]
        lengths = [min(self.size, length) for length in resized]
        inner = (slice(None), *(slice(max(o, 0), max(o, 0) + n) for o, n in zip(offsets, lengths, strict=True)))
        part = (slice(None), *(slice(max(-o, 0), max(-o, 0) + n) for o, n in zip(offsets, lengths, strict=True)))
        return inner, part


def _resample(planes: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Resample (N, C, H, W) float32 to (N, C, *shape); frames, masks and their restoration share this geometry."""
    from torch.nn.functional import interpolate

    smaller = shape[0] < planes.shape[2] or shape[1] < planes.shape[3]  # enlarging needs no antialiasing
    return interpolate(planes, shape, mode="bilinear", align_corners=False, antialias=smaller)


def resize_frames(frames: ByteArray, shape: tuple[int, int]) -> ByteArray:
    """Resize frames (T, H, W) uint8 bilinearly with antialiasing to (T, *shape)."""
    import torch  # verbs that only read a store do without it

    out = np.empty((len(frames), *shape), np.uint8)
    n = max(1, min(_CHUNK, _PIXELS // (frames.shape[1] * frames.shape[2])))
    for start in range(0, len(frames), n):
        chunk = torch.from_numpy(frames[start : start + n, None].astype(np.float32))
        out[start : start + n] = _resample(chunk, shape)[:, 0].round_().clamp_(0, 255).numpy()
    return out


def _resize_labels(maps: ByteArray, values: list[int], shape: tuple[int, int]) -> ByteArray:
    """Resize label maps (M, H, W) by the largest membership; ties go to the earlier of (0, *values)."""
    enlarged = shape[0] >= maps.shape[1] and shape[1] >= maps.shape[2]
    out = np.zeros((len(maps), *shape), np.uint8)
    for labels, resized in zip(maps, out, strict=True):
        resized[:] = (_enlarge_labels if enlarged else _resample_labels)(labels, values, shape)
    return out


def _resample_labels(labels: ByteArray, values: list[int], shape: tuple[int, int]) -> ByteArray:
    """Resize a label map of any size."""
    import torch

    def membership(value: int) -> Float32Array:
        members = torch.from_numpy((labels == value).astype(np.float32))
        return np.asarray(_resample(members[None, None], shape)[0, 0].numpy())

    return _largest(membership, values)


def _enlarge_labels(labels: ByteArray, values: list[int], shape: tuple[int, int]) -> ByteArray:
    """Enlarge a label map as :func:`_resample_labels`, but with memberships only where neighbours differ."""
    (rows, down), (columns, across) = map(_before, labels.shape, shape)
    padded = np.pad(labels, ((0, 1), (0, 1)), mode="edge")
    corners = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    mixed = np.any([corner != labels for corner in corners[1:]], axis=0)

    def enlarged(plane: NDArray[Pixel]) -> NDArray[Pixel]:
        return np.ascontiguousarray(plane.T[columns].T)[rows]  # whole rows are copied faster than pixels

    out, places = enlarged(labels), np.flatnonzero(enlarged(mixed))
    row, column = np.divmod(places, shape[1])
    down, across = down[row], across[column]
    near = [corner[rows[row], columns[column]] for corner in corners]

    def membership(value: int) -> Float32Array:
        top_left, top_right, left, right = ((label == value).astype(np.float32) for label in near)
        top, bottom = (1 - across) * top_left + across * top_right, (1 - across) * left + across * right
        return np.asarray((1 - down) * top + down * bottom)

    out.flat[places] = _largest(membership, values)
    return out


def _before(length: int, size: int) -> tuple[NDArray[np.intp], Float32Array]:
    """Return the sample before each place of an enlarged axis, and the weight of the next sample."""
    place = np.maximum((np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(length / size) - 0.5, 0)
    first = place.astype(np.intp)
    return first, place - first.astype(np.float32)


def _largest(membership: Callable[[int], Float32Array], values: list[int]) -> ByteArray:
    """Choose the label with the largest membership in each place; ties go to the earlier of (0, *values)."""
    best = membership(0)
    out = np.zeros(best.shape, np.uint8)
    for value in values:
        share = membership(value)
        out[share > best] = value
        best = np.maximum(best, share)
    return out
