"""Any file to frames: detect the kind of a file and decode it with the reader of that kind."""

from __future__ import annotations

import os
from pathlib import Path

from alan.data.io.base import Cine
from alan.data.io.dicom import DicomFrames, is_dicom
from alan.data.io.dicom_series import SplitFrames
from alan.data.io.frames import FrameSource, read_all
from alan.data.io.medical import MEDICAL, RawFrames
from alan.data.io.pictures import ANIMATIONS, PICTURES, STACKS, PageFrames, count_pages
from alan.data.io.video import VideoFrames

#: Suffixes of video containers.
VIDEOS = (
    *(".avi", ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".3gp", ".ts"),
    *(".flv", ".asf", ".ogv", ".vob", ".mts", ".m2ts", ".avif"),
)
#: Suffixes of DICOM files, which may also have none.
DICOM = (".dcm", ".dicom")
#: Ending of the names of label maps, which are beside the loops of CAMUS and ACDC; the reason to leave them out.
LABELS, LABEL_MAP = "_gt", "a label map according to its name, not a loop"

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


def is_cine(path: Path) -> bool:
    """Check whether a file is a cine loop, by its suffix or by its contents (DICOM, TIFF stacks, animations).

    A damaged TIFF file or animation counts as one, so that it is reported rather than ignored.

    Args:
        path: The file.
    """
    name = path.name.lower()
    if name.endswith((*STACKS, *ANIMATIONS)):
        return count_pages(path) != 1
    return name.endswith((*VIDEOS, *DICOM, *MEDICAL)) or is_dicom(path)


def read_cine(path: str | os.PathLike[str]) -> Cine:
    """Decode a cine loop or a still to grey: video, DICOM, NIfTI, MetaImage, pictures, TIFF stacks, GIF.

    DICOM files are recognised by their suffix or their first bytes, the others by their suffix; a file with
    another suffix is given to FFmpeg.

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
    path, name = paths[0], paths[0].name.lower()
    if len(paths) > 1:
        return (SplitFrames if is_dicom(path) else PageFrames)(*paths, whole=whole)
    if name.endswith(MEDICAL):
        return RawFrames(path)
    if name.endswith(DICOM) or is_dicom(path):
        return DicomFrames(path, whole=whole)
    if name.endswith((*PICTURES, *ANIMATIONS)):
        return PageFrames(path, whole=whole)
    return VideoFrames(path, whole=whole)


def stem(name: str) -> str:
    """Remove a known suffix from the name of a file; the last part of a DICOM UID is not a suffix."""
    suffix = next(
        (end for end in (*MEDICAL, *VIDEOS, *DICOM, *PICTURES, *ANIMATIONS) if name.lower().endswith(end)), ""
    )
    return name[: len(name) - len(suffix)]
