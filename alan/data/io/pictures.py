"""Stills and masks in picture files."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from alan.data.sample import ByteArray
from alan.errors import DataError

#: Suffixes of stills.
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
#: Suffixes of masks: formats without loss.
MASKS = (".png", ".bmp", ".tif", ".tiff")
_DEEP = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


def read_picture(path: str | os.PathLike[str]) -> ByteArray:
    """Read a still as grey (H, W) uint8; colour is reduced to luma (ITU-R 601).

    Raises:
        DataError: missing, undecodable, or of more than 8 bits a channel.
    """
    with _opened(path) as image:
        if image.mode in _DEEP:
            raise DataError(f"{path}: has more than 8 bits a pixel; save it with 8 bits")
        return _decoded(image, path, "L").astype(np.uint8)


def read_mask(path: str | os.PathLike[str]) -> tuple[NDArray[np.int64], bool]:
    """Read the picture of a mask.

    Returns:
        codes: (H, W) int64, the values of a grey or palette picture (of a palette the indices), or the
            :func:`colour_code` of the pixels of a colour picture, whatever their opacity.
        coloured: it is a colour picture.

    Raises:
        DataError: missing, undecodable, or of a kind of picture that is none of these.
    """
    with _opened(path) as image:
        array = _decoded(image, path)
        mode = image.mode
    if mode in ("RGB", "RGBA"):
        return colour_code(array[..., :3]), True
    if mode == "LA":
        array = array[..., 0]
    if mode == "F" or array.ndim != 2:
        raise DataError(f"{path}: a mask is a grey, palette or RGB picture, this one is {mode}")
    return array.astype(np.int64), False


def colour_code(colours: NDArray[Any]) -> NDArray[np.int64]:
    """One number a colour: red + 256 green + 65536 blue.

    Args:
        colours: (..., 3) integers 0 to 255.

    Returns:
        (...) int64.
    """
    codes: NDArray[np.int64] = colours.astype(np.int64) @ np.array([1, 256, 65536])
    return codes


def find_file(root: Path, folders: tuple[str, ...], names: list[str], listed_in: Path) -> Path | None:
    """Look for a file that a list names.

    Args:
        root: folder of the data set.
        folders: folders in it to look in, ``""`` for itself.
        names: the names that the file may have, relative to these folders.
        listed_in: the list, for messages.

    Returns:
        The first that exists, or None.

    Raises:
        DataError: a name that leads out of the data set.
    """
    for name in names:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise DataError(f"{listed_in}: {name!r} lies outside the data set; names must be relative to it")
    paths = (root / folder / name for name in names for folder in folders)
    return next((path for path in paths if path.is_file()), None)


def _opened(path: str | os.PathLike[str]) -> Image.Image:
    try:
        return Image.open(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such picture") from error
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be decoded ({error})") from error


def _decoded(image: Image.Image, path: str | os.PathLike[str], mode: str | None = None) -> NDArray[Any]:
    """Pixels, in another mode of PIL where one is given; a file that was cut off shows here, not on opening."""
    try:
        return np.array(image if mode is None else image.convert(mode))
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: cannot be decoded ({error})") from error
