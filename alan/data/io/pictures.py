"""Picture files: stills, masks, and stacks of pages."""

from __future__ import annotations

import contextlib
import functools
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION as PHOTOMETRIC
from PIL.TiffImagePlugin import TiffImageFile

from alan.arrays import ByteArray
from alan.data.io.base import (
    GET_AGAIN,
    MAX_PIXELS,
    Cine,
    Header,
    check_size,
    known_rate,
    mean_frame_rate,
    reading,
    variable_rate,
)
from alan.data.io.frames import DecodedFrame, GreyMapping, read_all
from alan.data.io.grey import GreyRange, grey_mapping
from alan.data.io.orientation import upright_picture
from alan.data.io.tiff import StackInfo, full_pages, read_stack
from alan.errors import DataError

#: Suffixes of stills.
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
#: Suffixes of masks: formats without loss.
MASKS = (".png", ".bmp", ".tif", ".tiff")
#: Suffixes of pictures that may hold several pages.
STACKS = (".tif", ".tiff")
#: Suffixes of animations.
ANIMATIONS = (".gif", ".webp", ".apng")
_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "TIFF", "WEBP")
_DEEP = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


@dataclass(frozen=True)
class MaskPicture:
    """The pixels of a mask file.

    Attributes:
        codes: (H, W) int64, the values of a grey picture, the indices of a palette picture, or the
            :func:`colour_code` of the pixels of a colour picture.
        coloured: Whether ``codes`` are colour codes.
        palette: (H, W) int64, the :func:`colour_code` of the pixels of a palette picture; None for others.
    """

    codes: NDArray[np.int64]
    coloured: bool
    palette: NDArray[np.int64] | None = None


def read_picture(path: str | os.PathLike[str]) -> ByteArray:
    """Read a still as grey values.

    The still is rotated according to its EXIF orientation, colour is reduced to luma (ITU-R 601), transparent
    pixels are black, and more than 8 bits are brought to 0..255 (:func:`alan.data.io.grey.grey_mapping`).

    Args:
        path: The file.

    Returns:
        (H, W) uint8.

    Raises:
        DataError: The file is missing, damaged or too large, or has several pages.
    """
    cine = read_pages(path)
    if len(cine.frames) > 1:
        raise DataError(f"{path}: holds {len(cine.frames)} pages; extract its frames with `alan frames`")
    frame: ByteArray = cine.frames[0]
    return frame


def read_pages(path: str | os.PathLike[str]) -> Cine:
    """Read all pages of a picture file, such as a TIFF stack, as the frames of a loop.

    Pages are treated as by :func:`read_picture`.

    Raises:
        DataError: The file is missing, damaged or too large, or its pages differ in size.
    """
    return read_all(PageFrames(Path(path)))


class PageFrames:
    """The pages of a picture file, or of several files of one page, as the frames of a loop.

    Args:
        paths: The file, or the files in the order of time.
        whole: Whether all frames must fit into memory at once.
    """

    kind = "picture"

    def __init__(self, *paths: Path, whole: bool = True) -> None:
        self.path, self._paths, self._whole = paths[0], paths, whole
        self._durations: list[float] = []

    def __iter__(self) -> Iterator[DecodedFrame]:
        """Decode the pages one by one."""
        self._durations = []
        for path in self._paths:
            for page in _pages(path, whole=self._whole):
                self._durations.append(float(page.info.get("duration") or 0) / 1000)
                coloured = page.mode not in ("1", "L", "LA", *_DEEP)
                yield DecodedFrame(_grey(page), functools.partial(_colours, page) if coloured else None)

    def header(self, count: int, found: GreyRange) -> tuple[Header, GreyMapping]:
        """Return the times and pixel size of animations and TIFF stacks, and the conversion of grey values."""
        declared = None if found.dtype.kind == "f" else (0.0, 65535.0)
        mapping, notes = grey_mapping(found, self.path, declared=declared)
        stack, left_out = self._stack(count)
        if left_out:
            notes = (*notes, "thumbnail pages are left out")
        attributes = {"volume": 1.0} if stack.volume else {}
        times = stack.times
        shown = self._durations[:-1]  # GIF: how long each frame is shown
        if times is None and shown and min(shown) > 0:
            times = np.concatenate([[0.0], np.cumsum(shown)])
        fps = known_rate(mean_frame_rate(times))
        if fps is None or times is None:
            return Header(spacing=stack.spacing, notes=notes, attributes=attributes), mapping
        notes = (*notes, *variable_rate(times))
        return Header(fps, stack.spacing, times, notes=notes, attributes=attributes), mapping

    def _stack(self, count: int) -> tuple[StackInfo, bool]:
        """Describe a TIFF file, of a series the first still; also return whether pages are left out."""
        with _open(self.path) as image:
            if not isinstance(image, TiffImageFile):
                return StackInfo(), False
            pages = full_pages(image)
            image.seek(pages[0])
            info = read_stack(image.tag_v2, 1 if len(self._paths) > 1 else count, self.path)
            return info, len(pages) < image.n_frames


def count_pages(path: str | os.PathLike[str]) -> int:
    """Return the number of pages of a picture file without decoding them; 0 if it cannot be read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # reading the pages reports it
        try:
            with reading(path, "picture") as source, _open(source) as image:
                return len(_page_numbers(image))
        except DataError:
            return 0


def read_mask(path: str | os.PathLike[str], *, opaque: bool = False) -> MaskPicture:
    """Read the picture of a mask; it is rotated according to its EXIF orientation.

    Args:
        path: The file.
        opaque: Ignore transparency; otherwise transparent pixels are 0 and black.

    Raises:
        DataError: The file is missing, damaged or too large, has several pages, or is of a kind that masks do not
            have.
    """
    with reading(path, "mask") as source:
        pages = list(_pages(source))
        if len(pages) > 1:
            raise DataError(f"{path}: holds {len(pages)} pages; save each as a mask of its own")
        image = pages[0]
        see_through = image.has_transparency_data and not opaque
        if image.mode in ("L", "LA"):
            grey = (_on_black(image) if see_through else image).convert("L")
            return MaskPicture(np.asarray(grey).astype(np.int64), coloured=False)
        if image.mode in ("RGB", "RGBA"):
            colours = (_on_black(image) if see_through else image).convert("RGB")
            return MaskPicture(colour_code(np.asarray(colours)), coloured=True)
        if image.mode == "F" or np.asarray(image).ndim != 2:
            raise DataError(f"{path}: a mask is a grey, palette or RGB picture, this one is {image.mode}")
        ids = np.asarray(image).astype(np.int64)
        if image.mode != "P":
            return MaskPicture(ids, coloured=False)
        if see_through:
            ids = np.where(np.asarray(image.convert("RGBA"))[..., 3] == 0, 0, ids)
            image = _on_black(image)
        return MaskPicture(ids, coloured=False, palette=colour_code(np.asarray(image.convert("RGB"))))


def colour_code(colours: NDArray[Any]) -> NDArray[np.int64]:
    """Encode each colour as one number: red + 256 green + 65536 blue.

    Args:
        colours: (..., 3) integers 0 to 255.

    Returns:
        (...) int64.
    """
    codes: NDArray[np.int64] = colours.astype(np.int64) @ np.array([1, 256, 65536])
    return codes


def _page_numbers(image: Image.Image) -> list[int]:
    """List the pages of a picture file; further pictures in a JPEG file (MPO) and thumbnails do not count."""
    if isinstance(image, TiffImageFile):
        return full_pages(image)
    if image.format not in ("GIF", "PNG", "WEBP"):
        return [0]
    first = bool(getattr(image, "default_image", False))  # of an animated PNG, for viewers that show a still
    return list(range(first, getattr(image, "n_frames", 1)))


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Image.Image]:
    """Open a picture as a stream; with a path, Pillow maps the file and ignores the orientation of TIFF."""
    with path.open("rb") as file:
        try:
            image = Image.open(file, formats=_FORMATS)
        except UnidentifiedImageError as error:
            raise DataError(
                f"{path}: cannot be decoded: it is not a picture, or has an unusual depth; save it as PNG"
            ) from error
        except Image.DecompressionBombError as error:
            raise DataError(
                f"{path}: claims too many pixels; a frame may have at most {MAX_PIXELS}, make it smaller"
            ) from error
        with image:
            yield image


def _pages(path: Path, *, whole: bool = True) -> Iterator[Image.Image]:
    """Decode the pages one after the other, upright."""
    with _open(path) as image:
        pages = _page_numbers(image)
        for index in pages:
            image.seek(index)
            check_size(
                path, (len(pages) if whole else 1, image.height, image.width), 4 if image.mode in _DEEP else 1
            )
            image.load()
            yield _upright(image)
        if isinstance(image, TiffImageFile):
            image.seek(image.n_frames - 1)
            if image.tag_v2.next:  # Pillow ignores the rest
                raise DataError(f"{path}: ends early, after {image.n_frames} pages; {GET_AGAIN}")
    if image.format == "PNG":
        with _open(path) as image:
            image.verify()  # the check sums, which decoding does not verify


def _upright(image: Image.Image) -> Image.Image:
    """Apply the orientation, and invert 16-bit pages whose zero is white (Pillow inverts 8 bits only)."""
    page = upright_picture(image)
    if isinstance(image, TiffImageFile) and image.mode.startswith("I;16") and not image.tag_v2.get(PHOTOMETRIC, 1):
        return Image.fromarray(65535 - np.asarray(page).astype(np.uint16))
    return page


def _on_black(image: Image.Image) -> Image.Image:
    """Compose transparent pixels on black."""
    if image.mode == "P" and image.palette is None:  # Pillow's pages of a grey animation
        page, page.info = Image.fromarray(np.asarray(image)), image.info
        return _on_black(page)
    if not image.has_transparency_data:
        return image
    colours = image.convert("RGBA")
    black = Image.new("RGBA", colours.size, (0, 0, 0, 255))
    return Image.alpha_composite(black, colours).convert("RGB")


def _grey(image: Image.Image) -> NDArray[Any]:
    """Convert a page to (H, W), in the depth of the file."""
    if image.mode in _DEEP:
        return np.asarray(image)
    return np.asarray(_on_black(image).convert("L"))


def _colours(image: Image.Image) -> ByteArray:
    """Convert a page to (H, W, 3)."""
    return np.asarray(_on_black(image).convert("RGB"))
