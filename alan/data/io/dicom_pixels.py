"""Pixels of DICOM files: decoding, modality LUT and VOI window."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alan.data.io.base import GET_AGAIN, FrameBuffer, check_complete, check_size
from alan.data.io.dicom_apart import decode_apart
from alan.data.io.dicom_header import lookup, number, numbers
from alan.data.io.grey import Window, luma, to_grey
from alan.data.sample import ByteArray
from alan.errors import DataError
from alan.extras import install_hint

_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
#: Transfer syntax to a decoder that survives damaged streams; others are tried in pydicom's order.
_PLUGINS = {
    "1.2.840.10008.1.2.4.50": "pillow",  # JPEG
    "1.2.840.10008.1.2.4.51": "pillow",
    "1.2.840.10008.1.2.4.80": "pyjpegls",  # JPEG-LS
    "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.4.90": "pillow",  # JPEG 2000
    "1.2.840.10008.1.2.4.91": "pillow",
}
#: JPEG lossless, which GDCM alone decodes; it aborts its process on some damaged streams.
_APART = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
_MOST_BITS = 16  # of stored values that go through a table


def read_pixels(dataset: Any, path: Path, count: int) -> tuple[ByteArray, tuple[str, ...]]:
    """Decode the frames of a file that is not a video.

    Args:
        dataset: The file, with a transfer syntax.
        path: Its path, for messages.
        count: Number of frames stated by its header.

    Returns:
        frames: (T, H, W) uint8, T may be more than ``count``.
        notes: Conversions of the grey values.

    Raises:
        DataError: There are fewer frames than stated, or the pixels cannot be decoded.
    """
    kind = str(dataset.get("PhotometricInterpretation", ""))
    if kind not in (*_GREY, *_COLOUR):
        raise DataError(f"{path}: holds pictures of the kind {kind!r}; export it as grey or RGB")
    rows, columns, allocated = (int(number(dataset, name) or 0) for name in ("Rows", "Columns", "BitsAllocated"))
    check_size(path, (count, rows, columns), max(allocated // 8, 1))
    frames = FrameBuffer(path)
    uid = dataset.file_meta.TransferSyntaxUID
    decoder = _decoder(uid, path)
    if uid.is_encapsulated:
        found = iter(decode_apart(path)) if uid in _APART else decode_frames(dataset, path)
    else:
        found = _native(decoder, dataset, path, count)
    try:
        for frame in found:
            frames.append(frame)
    except DataError:
        raise
    except Exception as error:  # decoders have no common root of what they raise
        said = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{path}: cannot be decoded after {len(frames)} of {count} frames ({said[:200]}); {GET_AGAIN}"
        ) from error
    check_complete(path, "frames", count, len(frames))
    stack = frames.stack()
    if kind in _GREY:
        return _grey_values(stack, dataset, path, inverted=kind == "MONOCHROME1")
    bits = 8 * stack.dtype.itemsize if kind == "PALETTE COLOR" else number(dataset, "BitsStored") or 8
    return to_grey(stack, path, declared=(0.0, 2.0**bits - 1))


def decode_frames(dataset: Any, path: Path) -> Iterator[NDArray[Any]]:
    """Decode compressed frames (H, W), in the depth of the file.

    Raises:
        DataError: No decoder is installed.
    """
    uid = dataset.file_meta.TransferSyntaxUID
    decoder = _decoder(uid, path)
    for array, found in decoder.iter_array(dataset, raw=True, decoding_plugin=_PLUGINS.get(uid, "")):
        yield _one_channel(array, found["photometric_interpretation"], dataset)


def _decoder(uid: Any, path: Path) -> Any:
    from pydicom.pixels.decoders.base import get_decoder

    try:
        decoder = get_decoder(uid)
    except NotImplementedError as error:
        raise DataError(f"{path}: is encoded as {uid.name}, which is not read; export it uncompressed") from error
    if not decoder.is_available:
        raise DataError(
            f"{path}: is compressed as {uid.name}, and no decoder of it is installed: {install_hint('dicom')} "
            "brings python-gdcm and pyjpegls"
        )
    return decoder


def _native(decoder: Any, dataset: Any, path: Path, count: int) -> Iterator[NDArray[Any]]:
    """Decode uncompressed frames one by one, as pydicom's own iterator miscounts YBR_FULL_422."""
    samples, there = int(number(dataset, "SamplesPerPixel") or 1), len(dataset.PixelData)
    per_sample = dataset.Rows * dataset.Columns * dataset.BitsAllocated / 8
    if dataset.PhotometricInterpretation == "YBR_FULL_422":
        if there >= 3 * per_sample * count:
            warnings.warn("PhotometricInterpretation is YBR_FULL_422 but all samples are there", stacklevel=1)
            dataset.PhotometricInterpretation = "YBR_FULL"
        else:
            samples = 2
    check_complete(path, "bytes", math.ceil(samples * per_sample * count), there)
    dataset.NumberOfFrames = int(there // (samples * per_sample))
    for index in range(dataset.NumberOfFrames):
        array, found = decoder.as_array(dataset, index=index, raw=True, validate=index == 0)
        yield _one_channel(array, found["photometric_interpretation"], dataset)


def _one_channel(array: NDArray[Any], kind: str, dataset: Any) -> NDArray[Any]:
    """Convert a decoded frame (H, W) or (H, W, 3) to (H, W), in the depth of the file."""
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if kind == "PALETTE COLOR":
        from pydicom.pixels.processing import apply_color_lut

        array = apply_color_lut(array, dataset)
    elif kind in ("YBR_FULL", "YBR_FULL_422"):
        return array[..., 0]  # luma
    return luma(np.ascontiguousarray(array[..., :3])) if array.ndim == 3 else array


def _grey_values(
    stack: NDArray[Any], dataset: Any, path: Path, *, inverted: bool
) -> tuple[ByteArray, tuple[str, ...]]:
    """Convert stored values (T, H, W) to 0..255 by modality LUT and VOI window."""
    stored, full = _stored(stack, dataset)
    low, high = int(stored.min()), int(stored.max())
    if dataset.get("ModalityLUTSequence"):
        declared = np.array([0.0, _highest(dataset.ModalityLUTSequence)])
    else:
        declared = _modality(np.array(full), dataset)
    if (
        low < 0
        and full[1] < 255
        and declared.min() < 0
        and not numbers(dataset, "WindowWidth", "FrameVOILUTSequence")
    ):
        raise DataError(f"{path}: holds signed pixels of 8 bits from {low} to {high}; export it unsigned")
    if high - low >= 2**_MOST_BITS:
        check_size(path, stored.shape, 8)
        values, window = _voi(_modality(stored, dataset), dataset)
        frames, notes = to_grey(values, path, window=window, declared=(declared.min(), declared.max()))
    else:  # each stored value once
        values, window = _voi(_modality(np.arange(low, high + 1), dataset), dataset)
        table, notes = to_grey(
            values.reshape(1, 1, -1), path, window=window, declared=(declared.min(), declared.max())
        )
        frames = np.empty(stored.shape, np.uint8)
        for index, frame in enumerate(stored):
            frames[index] = table.ravel()[frame.astype(np.int64) - low]
    return (255 - frames if inverted else frames), notes


def _stored(stack: NDArray[Any], dataset: Any) -> tuple[NDArray[Any], tuple[int, int]]:
    """Remove the bits that are not stored (overlays); return the values and the range that they can have."""
    allocated = 8 * stack.dtype.itemsize
    bits = min(int(number(dataset, "BitsStored") or allocated), allocated)
    high = int(number(dataset, "HighBit") or bits - 1)
    signed = stack.dtype.kind == "i"
    if bits < allocated and bits - 1 <= high < allocated:
        stack = (stack << (allocated - 1 - high)) >> (allocated - bits)
    return stack, (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def _modality(values: NDArray[Any], dataset: Any) -> NDArray[Any]:
    if dataset.get("ModalityLUTSequence"):
        from pydicom.pixels.processing import apply_modality_lut

        mapped: NDArray[Any] = apply_modality_lut(values, dataset)
        return mapped
    slope, intercept = (
        (numbers(dataset, name, "PixelValueTransformationSequence") or [default])[0]
        for name, default in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))
    )
    return values if slope in (0, 1) and intercept == 0 else values * slope + intercept


def _voi(values: NDArray[Any], dataset: Any) -> tuple[NDArray[Any], Window | None]:
    """Apply a VOI lookup table; return the values and the window in which to show them."""
    if dataset.get("VOILUTSequence"):
        from pydicom.pixels.processing import apply_voi

        highest = _highest(dataset.VOILUTSequence)
        return apply_voi(np.rint(values).astype(np.int64), dataset), Window(highest / 2, highest, "LINEAR_EXACT")
    centers, widths = (numbers(dataset, name, "FrameVOILUTSequence") for name in ("WindowCenter", "WindowWidth"))
    if not centers or not widths or widths[0] <= 0:
        return values, None
    function = str(lookup(dataset, "VOILUTFunction", "FrameVOILUTSequence") or "LINEAR").upper()
    return values, Window(centers[0], widths[0], function)


def _highest(sequence: Any) -> float:
    """Return the highest value of a lookup table, by the number of bits of its entries."""
    return float(2.0 ** int(sequence[0].LUTDescriptor[2]) - 1)
