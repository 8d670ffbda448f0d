"""Resizing of frames and masks to one square size, and of masks back to the original size."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from alan.bounds import PositiveInt, bounded
from alan.data.sample import BoolArray, ByteArray, Sample
from alan.data.structures import label_value
from alan.errors import ParameterError
from alan.files import fingerprint

Pixel = TypeVar("Pixel", np.bool_, np.uint8)

#: Number of frames that are resized at once; it bounds the memory that long sequences need.
_CHUNK = 32


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
            and the spacing says so.
    """

    size: PositiveInt = 112
    keep_aspect: bool = False

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of everything that determines the output."""
        return fingerprint({"preprocessing": 1, **self.to_dict()})

    def to_dict(self) -> dict[str, Any]:
        """Arguments of the constructor, JSON-able: ``Preprocessing(**p.to_dict()) == p``."""
        return asdict(self)

    def apply(self, sample: Sample) -> Sample:
        """Resize a sample.

        Args:
            sample: A sample with frames (T, H, W) and masks (M, H, W) of any size.

        Returns:
            The sample at (size, size), with the spacing of its new pixels. A sample that has this size already is
            returned unchanged.
        """
        shape = (sample.frames.shape[1], sample.frames.shape[2])
        if shape == (self.size, self.size):
            return sample
        height, width, top, left = self._box(shape)
        inner = np.s_[:, top : top + height, left : left + width]
        frames = np.zeros((len(sample.frames), self.size, self.size), np.uint8)
        frames[inner] = _resize_frames(sample.frames, (height, width))
        masks: dict[str, BoolArray] = {}
        if sample.masks:
            maps = np.zeros((len(sample.mask_frames), self.size, self.size), np.uint8)
            values = {name: label_value(name, sample.label_names) for name in sample.masks}
            maps[inner] = _resize_labels(sample.label_maps(), list(values.values()), (height, width))
            masks = {name: maps == value for name, value in values.items()}
        spacing = None
        if sample.spacing is not None:
            spacing = (sample.spacing[0] * shape[0] / height, sample.spacing[1] * shape[1] / width)
        return replace(sample, frames=frames, masks=masks, spacing=spacing)

    def restore(self, maps: NDArray[Pixel], shape: tuple[int, int]) -> NDArray[Pixel]:
        """Restore masks or label maps to the original resolution: the geometric inverse of :meth:`apply`.

        Args:
            maps: (N, size, size), bool for masks of one structure or uint8 for label maps (0 is background).
            shape: (H, W) of the original frames.

        Returns:
            (N, H, W) of the same dtype, each pixel by its largest membership; what lies on the padding is lost.
            Maps that have this size already are returned unchanged.

        Raises:
            ParameterError: The maps have another size or dtype.
        """
        if maps.ndim != 3 or maps.shape[1:] != (self.size, self.size) or maps.dtype not in (np.bool_, np.uint8):
            raise ParameterError(
                f"maps are {maps.dtype} {maps.shape}: give bool or uint8 (N, {self.size}, {self.size})"
            )
        if shape == (self.size, self.size):
            return maps
        height, width, top, left = self._box(shape)
        inner = maps[:, top : top + height, left : left + width].astype(np.uint8)
        values = [int(value) for value in np.unique(inner) if value]
        return _resize_labels(inner, values, shape).astype(maps.dtype)

    def _box(self, shape: tuple[int, int]) -> tuple[int, int, int, int]:
        """Height, width, top and left of the picture inside the output."""
        if not self.keep_aspect:
            return self.size, self.size, 0, 0
        scale = self.size / max(shape)
        height, width = (max(1, round(side * scale)) for side in shape)
        return height, width, (self.size - height) // 2, (self.size - width) // 2


def _resample(planes: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Resample (N, C, H, W) float32 to (N, C, *shape); frames, masks and their restoration share this geometry."""
    smaller = shape[0] < planes.shape[2] or shape[1] < planes.shape[3]  # enlarging needs no antialiasing
    return interpolate(planes, shape, mode="bilinear", align_corners=False, antialias=smaller)


def _resize_frames(frames: ByteArray, shape: tuple[int, int]) -> ByteArray:
    out = np.empty((len(frames), *shape), np.uint8)
    for start in range(0, len(frames), _CHUNK):
        chunk = torch.from_numpy(frames[start : start + _CHUNK, None].astype(np.float32))
        out[start : start + _CHUNK] = _resample(chunk, shape)[:, 0].round_().clamp_(0, 255).numpy()
    return out


def _resize_labels(maps: ByteArray, values: list[int], shape: tuple[int, int]) -> ByteArray:
    """Resize label maps (M, H, W) by the largest membership; ties go to the earlier of (0, *values)."""
    classes = np.asarray([0, *values], np.uint8)
    out = np.zeros((len(maps), *shape), np.uint8)
    for index, labels in enumerate(maps):
        members = torch.from_numpy((labels == classes[:, None, None]).astype(np.float32))
        best, *others = _resample(members[None], shape)[0].numpy()
        for value, share in zip(values, others, strict=True):
            out[index][share > best] = value
            best = np.maximum(best, share)
    return out
