"""Pixels of DICOM files: decoding, modality LUT and VOI window."""

from __future__ import annotations

import contextlib
import functools
import io
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alan.arrays import ByteArray
from alan.data.io.base import GET_AGAIN, ClippedReader, check_complete, check_size
from alan.data.io.dicom_apart import DecodedApart
from alan.data.io.dicom_enhanced import differs
from alan.data.io.dicom_header import attribute_number, lookup, numbers
from alan.data.io.frames import DecodedFrame, GreyMapping
from alan.data.io.grey import GreyRange, Window, grey_mapping, luma
from alan.errors import DataError
from alan.extras import install_hint

_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
#: Subsampled colours whose luma runs from 16 to 235, as on television; retired.
_PARTIAL = "YBR_PARTIAL_422"
#: Photometric interpretations whose first channel is luma.
_LUMA = ("YBR_FULL", "YBR_FULL_422")
_UNDEFINED = 0xFFFFFFFF
#: Decoder that does not crash on damaged streams, by transfer syntax; others follow in the order of pydicom.
_PLUGINS = {
    "1.2.840.10008.1.2.4.50": "pillow",  # JPEG
    "1.2.840.10008.1.2.4.51": "pillow",
    "1.2.840.10008.1.2.4.80": "pyjpegls",  # JPEG-LS
    "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.4.90": "pillow",  # JPEG 2000
    "1.2.840.10008.1.2.4.91": "pillow",
}
#: JPEG lossless, which only GDCM decodes; GDCM aborts on some damaged streams.
_APART = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
#: JPEG of 8 or 12 bits.
_EXTENDED = "1.2.840.10008.1.2.4.51"
_MOST_BITS = 16  # largest depth of stored values that go through a table
#: Smallest side in pixels of a picture whose PlanarConfiguration is checked. The other reading is right if its
#: roughness is a smaller share of that of the stated one (0.02 to 0.58 for ultrasound screens).
_CHECKED_SIDE, _SMOOTHER = 64, 0.7


class PixelFrames:
    """The frames of a DICOM file that is not a video.

    Args:
        dataset: The file, with a transfer syntax.
        path: Its path.
        count: Number of frames stated by its header.
        whole: Whether all frames must fit into memory at once.

    Raises:
        DataError: Its photometric interpretation is not supported, or it claims too many pixels.
    """

    def __init__(self, dataset: Any, path: Path, count: int, *, whole: bool) -> None:
        self._dataset, self._path, self._count = dataset, path, count
        _complete(dataset)
        self._kind = str(dataset.PhotometricInterpretation)
        partial = self._kind == _PARTIAL and dataset.get("BitsAllocated") == 8
        partial = partial and not dataset.file_meta.TransferSyntaxUID.is_encapsulated
        if self._kind not in (*_GREY, *_COLOUR) and not partial:
            raise DataError(f"{path}: has the photometric interpretation {self._kind!r}; export it as grey or RGB")
        needed = 1 if self._kind in (*_GREY, "PALETTE COLOR") else 3
        samples = int(attribute_number(dataset, "SamplesPerPixel") or needed)
        if samples != needed:
            raise DataError(
                f"{path}: states {samples} samples per pixel, but {self._kind} has {needed}; "
                "export it again as grey or RGB"
            )
        if differs(dataset, "PixelValueTransformationSequence", "RescaleSlope"):
            raise DataError(
                f"{path}: has a different RescaleSlope in each frame; export it with one for all frames"
            )
        sizes = (int(attribute_number(dataset, name) or 0) for name in ("Rows", "Columns", "BitsAllocated"))
        rows, columns, allocated = sizes
        check_size(path, (count if whole else 1, rows, columns), max(allocated // 8, 1))
        self._apart: DecodedApart | None = None
        self._full = (0, 255)

    def __iter__(self) -> Iterator[DecodedFrame]:
        """Decode the frames one by one; there may be more than the header states.

        Raises:
            DataError: There are fewer frames than stated, or the pixels cannot be decoded.
        """
        uid = self._dataset.file_meta.TransferSyntaxUID
        decoder, done = _decoder(uid, self._path), 0
        if uid == _EXTENDED and (attribute_number(self._dataset, "BitsStored") or 8) > 8:
            raise DataError(f"{self._path}: is a JPEG of 12 bits, which no decoder reads; export it uncompressed")
        if uid in _APART:
            self._apart = self._apart or DecodedApart(self._path)
            found = self._apart.frames()
        elif uid.is_encapsulated:
            found = decode_frames(self._dataset, self._path)
        else:
            found = _native(decoder, self._dataset, self._path, self._count)
        try:
            for frame in found:
                done += 1
                if self._kind not in _GREY:
                    yield frame
                    continue
                grey, self._full = _keep_stored_bits(frame.grey, self._dataset)
                yield DecodedFrame(grey)
        except DataError:
            raise
        except Exception as error:  # decoders raise exceptions without a common base
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(
                f"{self._path}: cannot be decoded after {done} of {self._count} frames ({reason[:200]}); "
                f"{GET_AGAIN}"
            ) from error
        check_complete(self._path, "frames", self._count, done)

    def mapping(self, found: GreyRange) -> tuple[GreyMapping, tuple[str, ...]]:
        """Choose the conversion to 0..255."""
        if self._kind in _GREY:
            return _grey_values(found, self._full, self._dataset, self._path, inverted=self._kind == "MONOCHROME1")
        bits = (
            8 * found.dtype.itemsize
            if self._kind == "PALETTE COLOR"
            else attribute_number(self._dataset, "BitsStored") or 8
        )
        return grey_mapping(found, self._path, declared=(0.0, 2.0**bits - 1))


def _complete(dataset: Any) -> None:
    """Give missing elements of the pixels the values that all viewers assume; pydicom needs them."""
    kind = str(dataset.get("PhotometricInterpretation") or "").strip().upper()
    kind = kind or ("RGB" if dataset.get("SamplesPerPixel") == 3 else "MONOCHROME2")
    stored = dataset.get("BitsStored") or dataset.get("BitsAllocated")
    assumed = {
        "SamplesPerPixel": 1 if kind in (*_GREY, "PALETTE COLOR") else 3,
        "PlanarConfiguration": 0,
        "PixelRepresentation": 0,
        "BitsStored": stored,
        "HighBit": None if stored is None else stored - 1,
    }
    dataset.PhotometricInterpretation = kind
    for name, value in assumed.items():
        if dataset.get(name) is None and value is not None:
            setattr(dataset, name, value)


def decode_frames(dataset: Any, path: Path) -> Iterator[DecodedFrame]:
    """Decode compressed frames (H, W), in the depth of the file.

    Raises:
        DataError: No decoder is installed.
    """
    from pydicom.pixels.utils import as_pixel_options

    uid = dataset.file_meta.TransferSyntaxUID
    decoder = _decoder(uid, path)
    with pixel_bytes(dataset, path) as (file, _):
        options = as_pixel_options(dataset, pixel_keyword="PixelData", transfer_syntax_uid=uid)
        offsets, lengths = _fragments(file)
        if "extended_offsets" in options or len(offsets) == attribute_number(dataset, "NumberOfFrames"):
            options["extended_offsets"] = offsets, lengths  # each is a frame, whatever the tables of the file say
        plugin = _PLUGINS.get(uid, "")
        for array, found in decoder.iter_array(file, raw=True, decoding_plugin=plugin, **options):
            yield _grey_frame(array, found["photometric_interpretation"], dataset)


def _fragments(file: Any) -> tuple[list[int], list[int]]:
    """Find the fragments of compressed pixels: bytes from the first one, and lengths; none in a damaged file."""
    from pydicom.encaps import parse_basic_offsets, parse_fragments

    start, lengths = file.tell(), []
    try:
        parse_basic_offsets(file)
        first = file.tell()
        _, tags = parse_fragments(file)
        for tag in tags:
            file.seek(tag + 4)
            lengths.append(int.from_bytes(file.read(4), "little"))
    except ValueError:  # the decoder reports it
        return [], []
    finally:
        file.seek(start)
    return [tag - first for tag in tags], lengths


@contextlib.contextmanager
def pixel_bytes(dataset: Any, path: Path) -> Iterator[tuple[Any, int]]:
    """Open the element PixelData without reading it.

    Yields:
        A file positioned at the first byte of the element, and the (largest possible) number of its bytes.
    """
    element = dataset.get_item("PixelData", keep_deferred=True)
    if element.value is not None:
        data = bytes(element.value)
        yield io.BytesIO(data), len(data)
        return
    with ClippedReader(path) as file:
        there = max(path.stat().st_size - element.value_tell, 0)
        file.seek(element.value_tell)
        yield file, there if element.length == _UNDEFINED else min(there, element.length)


def _decoder(uid: Any, path: Path) -> Any:
    from pydicom.pixels.decoders.base import get_decoder

    try:
        decoder = get_decoder(uid)
    except NotImplementedError as error:
        raise DataError(
            f"{path}: is encoded as {uid.name}, which is not supported; export it uncompressed"
        ) from error
    if not decoder.is_available:
        remedy = f"{install_hint('dicom')} brings pyjpegls, pylibjpeg-openjpeg and python-gdcm"
        raise DataError(f"{path}: is compressed as {uid.name}, for which no decoder is installed: {remedy}")
    return decoder


def _native(decoder: Any, dataset: Any, path: Path, count: int) -> Iterator[DecodedFrame]:
    """Decode uncompressed frames one by one; the iterator of pydicom miscounts YBR_FULL_422."""
    with pixel_bytes(dataset, path) as (file, there):
        one, vr = dataset.group_dataset(0x0028), dataset.get_item("PixelData", keep_deferred=True).VR
        samples, kind = int(attribute_number(dataset, "SamplesPerPixel") or 1), dataset.PhotometricInterpretation
        partial = kind == _PARTIAL
        kind = "YBR_FULL_422" if partial else kind
        per_sample = dataset.Rows * dataset.Columns * dataset.BitsAllocated / 8
        if kind == "YBR_FULL_422":
            if there >= 3 * per_sample * count:
                warnings.warn(
                    f"PhotometricInterpretation is {dataset.PhotometricInterpretation}, but the colours are not "
                    "subsampled",
                    stacklevel=1,
                )
                kind = "YBR_FULL"
            else:
                samples = 2
        check_complete(path, "bytes", math.ceil(samples * per_sample * count), there)
        one.NumberOfFrames, one.PhotometricInterpretation = 1, kind
        start, size = file.tell(), samples * per_sample
        for index in range(int(there // size)):
            # two frames of packed bits may share a byte
            begin, end = int(index * size), math.ceil((index + 1) * size)
            file.seek(start + begin)
            one.add_new("PixelData", vr or "OW", file.read(end - begin))
            if index == 0 and kind == "RGB" and _is_other_layout(one):
                one.PlanarConfiguration = 1 - one.PlanarConfiguration
                layout = "plane by plane" if one.PlanarConfiguration else "pixel by pixel"
                warnings.warn(f"PlanarConfiguration is wrong: colours are stored {layout}", stacklevel=1)
            # the unused bits of grey values may be the low ones
            options = {"validate": index == 0, "correct_unused_bits": kind not in _GREY}
            array, found = decoder.as_array(one, index=0, raw=True, **options)
            array = _full_range(array) if partial else array
            yield _grey_frame(array, found["photometric_interpretation"], dataset)


def _full_range(frame: ByteArray) -> ByteArray:
    """Expand luma from 16..235 and colour differences from 16..240 to 0..255."""
    stored = np.arange(256.0)
    tables = ((stored - 16) * 255 / 219, *((stored - 128) * 255 / 224 + 128,) * 2)
    bytes_ = [np.rint(np.clip(table, 0, 255)).astype(np.uint8) for table in tables]
    return np.stack([table[frame[..., channel]] for channel, table in enumerate(bytes_)], -1)


def _is_other_layout(frame: Any) -> bool:
    """Decide whether the colours of an uncompressed RGB frame are in the layout that is not stated.

    In the wrong layout, neighbouring pixels come from different places, so that the picture is rougher.
    """
    shape = (frame.Rows, frame.Columns)
    if frame.BitsAllocated != 8 or min(shape) < _CHECKED_SIDE:
        return False
    values = np.frombuffer(frame.PixelData, np.uint8)[: 3 * shape[0] * shape[1]].astype(np.int32)
    readings = values.reshape(*shape, 3).sum(-1), values.reshape(3, *shape).sum(0)
    stated, other = readings[frame.PlanarConfiguration], readings[1 - frame.PlanarConfiguration]
    return _roughness(other) < _SMOOTHER * _roughness(stated)


def _roughness(picture: NDArray[Any]) -> float:
    """Compute the mean difference of neighbouring pixels, divided by the standard deviation."""
    steps = sum(float(np.abs(np.diff(picture, axis=axis)).mean()) for axis in (0, 1))
    return steps / max(float(picture.std()), 1.0)


def _grey_frame(array: NDArray[Any], kind: str, dataset: Any) -> DecodedFrame:
    """Convert a decoded frame (H, W) or (H, W, 3) to grey, in the depth of the file."""
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if kind == "PALETTE COLOR":
        from pydicom.pixels.processing import apply_color_lut

        array = apply_color_lut(array, dataset)
    elif array.ndim == 2:
        return DecodedFrame(array)
    return DecodedFrame(
        array[..., 0] if kind in _LUMA else luma(np.ascontiguousarray(array[..., :3])),
        functools.partial(_colours, array, kind),
    )


def _colours(array: NDArray[Any], kind: str) -> ByteArray:
    """Convert a decoded frame to RGB of 8 bits."""
    if array.dtype != np.uint8:
        array = (array >> (8 * array.dtype.itemsize - 8)).astype(np.uint8)
    if kind in _LUMA:
        from pydicom.pixels.processing import convert_color_space

        array = convert_color_space(array, kind, "RGB")
    return np.ascontiguousarray(array[..., :3])


def _grey_values(
    found: GreyRange, full: tuple[int, int], dataset: Any, path: Path, *, inverted: bool
) -> tuple[GreyMapping, tuple[str, ...]]:
    """Choose the conversion of stored values to 0..255 by modality LUT and VOI window."""
    low, high = int(found.low), int(found.high)
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
    limits = (float(declared.min()), float(declared.max()))
    large = high - low >= 2**_MOST_BITS
    stored = np.array([low, high]) if large else np.arange(low, high + 1)
    shown, window = _voi(_modality(stored, dataset), dataset)
    ends = GreyRange()
    ends.add(shown)
    mapping, notes = grey_mapping(ends, path, window=window, declared=limits)

    def to_bytes(values: NDArray[Any]) -> ByteArray:
        grey = values.astype(np.uint8) if mapping is None else mapping(values)
        return 255 - grey if inverted else grey

    if large:
        return lambda frame: to_bytes(_voi(_modality(frame, dataset), dataset)[0]), notes
    table = to_bytes(shown)  # one entry per stored value
    return lambda frame: table[frame.astype(np.int64) - low], notes


def _keep_stored_bits(stack: NDArray[Any], dataset: Any) -> tuple[NDArray[Any], tuple[int, int]]:
    """Remove bits beyond BitsStored (overlays); return the values and their possible range."""
    allocated = 8 * stack.dtype.itemsize
    bits = min(int(attribute_number(dataset, "BitsStored") or allocated), allocated)
    high = int(attribute_number(dataset, "HighBit") or bits - 1)
    signed = stack.dtype.kind == "i"
    if bits < allocated and bits - 1 <= high < allocated:
        stack = (stack << (allocated - 1 - high)) >> (allocated - bits)
    return stack, (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def _modality(values: NDArray[Any], dataset: Any) -> NDArray[Any]:
    if dataset.get("ModalityLUTSequence"):
        from pydicom.pixels.processing import apply_modality_lut

        return apply_modality_lut(values, dataset)
    slope, intercept = (
        (numbers(dataset, name, "PixelValueTransformationSequence") or [default])[0]
        for name, default in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))
    )
    if slope == 0:
        warnings.warn("RescaleSlope is 0 and is left out", stacklevel=2)
        return values
    return values if slope == 1 and intercept == 0 else values * slope + intercept


def _voi(values: NDArray[Any], dataset: Any) -> tuple[NDArray[Any], Window | None]:
    """Apply a VOI lookup table; return the values and the window in which to show them."""
    if dataset.get("VOILUTSequence"):
        from pydicom.pixels.processing import apply_voi

        highest = _highest(dataset.VOILUTSequence)
        return apply_voi(np.rint(values).astype(np.int64), dataset), Window(highest / 2, highest, "LINEAR_EXACT")
    centers, widths = (numbers(dataset, name, "FrameVOILUTSequence") for name in ("WindowCenter", "WindowWidth"))
    if not centers or not widths or widths[0] <= 0:
        if widths and widths[0] <= 0:
            warnings.warn(f"WindowWidth is {widths[0]:.4g} and is left out", stacklevel=2)
        return values, None
    function = str(lookup(dataset, "VOILUTFunction", "FrameVOILUTSequence") or "LINEAR").upper()
    return values, Window(centers[0], widths[0], function)


def _highest(sequence: Any) -> float:
    """Return the highest value of a lookup table, by the number of bits of its entries."""
    return float(2.0 ** int(sequence[0].LUTDescriptor[2]) - 1)
