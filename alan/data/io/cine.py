"""Any file to frames: detect the kind of a file and decode it with the reader of that kind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from alan.data.io.base import Cine, first_bytes
from alan.data.io.dicom import DicomFrames, is_dicom
from alan.data.io.dicom_series import SplitFrames
from alan.data.io.frames import FrameSource, read_all
from alan.data.io.medical import MEDICAL, RawFrames
from alan.data.io.pictures import ANIMATIONS, PICTURES, STACKS, PageFrames, count_pages
from alan.data.io.video import VideoFrames

#: Kind of a file, which determines its decoder; empty for a file that is not read.
Kind = Literal["medical", "dicom", "picture", "video", ""]
#: Suffixes of video containers.
VIDEOS = (
    *(".avi", ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".3gp", ".ts"),
    *(".flv", ".asf", ".ogv", ".vob", ".mts", ".m2ts", ".m2v", ".divx", ".avif"),
)
#: Suffixes of DICOM files, which may also have none.
DICOM = (".dcm", ".dicom")
#: Ending of the names of label maps, which are beside the loops of CAMUS and ACDC; the reason to leave them out.
LABELS, LABEL_MAP = "_gt", "a label map according to its name, not a loop"

#: First bytes of pictures and videos, and the bytes at 8 of a RIFF file; MP4 and its kin have ``ftyp`` at 4.
_PICTURE = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*")
_VIDEO = (b"\x1aE\xdf\xa3", b"\0\0\1\xba", b"\0\0\1\xb3", b"0&\xb2u", b"FLV\1", b"OggS")
_RIFF: dict[bytes, Kind] = {b"AVI ": "video", b"WEBP": "picture"}
#: Suffixes of pictures of one page.
_STILLS = tuple(suffix for suffix in PICTURES if suffix not in STACKS)
#: Reasons to leave out a file to the endings of its name.
_UNREAD = {
    "an archive of files: unpack it": (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".7z", ".rar"),
    "compressed as a whole: unpack it": (".gz", ".bz2", ".xz", ".zst"),
    "in a format that is not read: save it as NIfTI, MetaImage, DICOM or video": (
        *(".nrrd", ".nhdr", ".mgz", ".mgh", ".mnc", ".vti", ".npy", ".npz", ".mat"),
    ),
}


def unread_reason(name: str) -> str:
    """Return the reason why a file of that name is not read; empty if it may be read."""
    lower = name.lower()
    found = (reason for reason, endings in _UNREAD.items() if lower.endswith(endings))
    return "" if lower.endswith(MEDICAL) else next(found, "")


def kind_of(path: Path) -> Kind:
    """Find the kind of a file.

    DICOM is known by its first bytes, NIfTI and MetaImage by their suffix. For other files the suffix says whether
    they are read, and the first bytes by which decoder, because some files have the suffix of another format. A
    file without a suffix is read if its first bytes are known.

    Args:
        path: The file.
    """
    name = path.name.lower()
    if name.endswith(MEDICAL):
        return "medical"
    if is_dicom(path):
        return "dicom"
    by_name = _kind_by_name(name)
    return (_kind_by_bytes(path) or by_name) if by_name or not path.suffix else ""


def _kind_by_name(name: str) -> Kind:
    if name.endswith(DICOM):
        return "dicom"
    if name.endswith((*PICTURES, *ANIMATIONS)):
        return "picture"
    return "video" if name.endswith(VIDEOS) else ""


def _kind_by_bytes(path: Path) -> Kind:
    start = first_bytes(path, 12)
    if start.startswith(_PICTURE):
        return "picture"
    if start.startswith(_VIDEO) or start[4:8] == b"ftyp":
        return "video"
    return _RIFF.get(start[8:], "") if start.startswith(b"RIFF") else ""


def is_cine(path: Path) -> bool:
    """Check whether a file is a cine loop: a video, DICOM, NIfTI, MetaImage, a TIFF stack or an animation.

    A damaged TIFF file or animation counts as one, so that it is reported rather than ignored.

    Args:
        path: The file.
    """
    kind = kind_of(path)
    if kind != "picture":
        return bool(kind)
    return not path.name.lower().endswith(_STILLS) and count_pages(path) != 1


def read_cine(path: str | os.PathLike[str]) -> Cine:
    """Decode a cine loop or a still to grey: video, DICOM, NIfTI, MetaImage, pictures, TIFF stacks, GIF.

    The decoder is chosen by :func:`kind_of`; a file of another kind is given to FFmpeg.

    Args:
        path: The file.

    Returns:
        Frames (T, H, W) uint8; times, frame rate and pixel size where the file states them.

    Raises:
        ConfigError: It is a DICOM file, and pydicom is not installed.
        DataError: The file is missing or damaged, or cannot be decoded.
    """
    return read_all(frame_source(Path(path), whole=True))


def frame_source(*paths: Path, whole: bool = False) -> FrameSource:
    """Choose the decoder of a file.

    Args:
        paths: The file, or the files of the frames of one loop in the order of time: stills, or DICOM files.
        whole: Whether all frames must fit into memory at once.

    Returns:
        The frames, which are not decoded yet.
    """
    path = paths[0]
    if len(paths) > 1:
        return (SplitFrames if is_dicom(path) else PageFrames)(*paths, whole=whole)
    kind = kind_of(path) or _kind_by_bytes(path)
    if kind == "medical":
        return RawFrames(path)
    if kind == "dicom":
        return DicomFrames(path, whole=whole)
    return (PageFrames if kind == "picture" else VideoFrames)(path, whole=whole)


def stem(name: str) -> str:
    """Remove a known suffix from the name of a file; the last part of a DICOM UID is not a suffix."""
    suffix = next(
        (end for end in (*MEDICAL, *VIDEOS, *DICOM, *PICTURES, *ANIMATIONS) if name.lower().endswith(end)), ""
    )
    return name[: len(name) - len(suffix)]
