"""EchoNet-Dynamic: A4C videos, LV tracings at end-diastole and end-systole, ejection fractions."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alan.arrays import BoolArray
from alan.bounds import Seed, bounded
from alan.data.io.cine import VIDEOS
from alan.data.io.video import read_video
from alan.data.readers.base import EchoDataset
from alan.data.readers.clinical import IMPOSSIBLE
from alan.data.readers.tables import read_number, read_rows
from alan.data.sample import SPLITS, Record, Sample
from alan.data.splits import read_split, resolve_splits
from alan.errors import DataError, nearest
from alan.polygons import fill_polygon

_LIST, _TRACINGS = "FileList.csv", "VolumeTracings.csv"
_NUMBERS = {"EF": "EF", "ESV": "ESV", "EDV": "EDV", "FPS": "fps"}
_OF_CHILDREN = ("Sex", "Age", "Weight", "Height")
_SIZE = ("FrameHeight", "FrameWidth")
_LINES, _POINTS = ("X1", "Y1", "X2", "Y2"), ("X", "Y")
_BEYOND = "traced frames beyond the end of their video"
#: A point may lie this far outside the frame, in pixels: corners are rounded to whole pixels.
_MARGIN = 2.0


@bounded
class EchoNetDynamic(EchoDataset):
    """EchoNet-Dynamic, or an archive in its layout, such as one view of EchoNet-Pediatric.

    **Format:** ``Videos/*.avi`` or other videos (112 x 112, grey); ``FileList.csv`` with one row per video;
    ``VolumeTracings.csv`` with the long axis and the chords of each traced frame (EchoNet-Pediatric: the points of
    the outline).

    **Size:** 10,030 videos of as many patients, 7 GB.

    **Licence:** Stanford University Dataset Research Use Agreement: research only, no redistribution.

    **Citation:** Ouyang et al., "Video-based AI for beat-to-beat assessment of cardiac function", Nature 580
    (2020).

    One video is one patient, the view is A4C, pixel sizes are unknown. Only traced frames have masks; the one
    with the largest LV is ED and that with the smallest is ES (of two equal ones, the earlier is ED). A video with
    one traced frame has neither phase; a video without tracings is kept without masks. The columns EF, ESV, EDV,
    FPS and NumberOfFrames may be missing. Rows without a video, videos without a row, and tracings that belong to
    no frame are skipped and counted, with a warning; so are values that no heart has (an EF of 600, an ESV above
    the EDV), which then count as unknown.

    Args:
        root: Folder of the release.
        split: Mapping from split to patients or to a fraction of them, or a YAML or JSON file of that. If the list
            numbers folds in place of splits, as in EchoNet-Pediatric, split to folds: ``{"train": "0-7", "val": 8,
            "test": 9}``. Default: the column Split of the list; folds give no split.
        seed: Seed of the draw if ``split`` gives fractions.

    Raises:
        DataError: A missing folder, table or column, or a split other than TRAIN, VAL and TEST. For a sample: a
            video that ends early, or a tracing without a long axis, with two, or outside the frame.
    """

    name = "EchoNet-Dynamic"
    structures = ("lv",)

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        split: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        seed: Seed = 0,
    ) -> None:
        super().__init__(root, f"Videos/, {_LIST} and {_TRACINGS}")
        table = self.root / _LIST
        rows = read_rows(
            table,
            ("FileName",) if split is not None else ("FileName", "Split"),
            (*_NUMBERS, *_OF_CHILDREN, *_SIZE, "NumberOfFrames", "Split"),
        )
        videos = _find_videos(self.root / "Videos")
        self._promised: dict[str, float | None] = {}
        self._sizes: dict[str, tuple[float | None, ...]] = {}
        self._shortened: set[str] = set()
        found: list[tuple[str, dict[str, str]]] = []
        missing: list[str] = []
        for row in rows:
            name = _stem(row["FileName"])
            if not name:
                raise DataError(f"{table}: column 'FileName' has an empty cell; name the video or remove the row")
            if name in videos:
                found.append((name, row))
            else:
                missing.append(row["FileName"])
            self._sizes[name] = tuple(read_number(row, column, table, name) for column in _SIZE)
            self._promised[name] = self._length(read_number(row, "NumberOfFrames", table, name), name)
        splits = _splits(found, split, seed)
        records = [
            Record(
                name,
                name,
                splits[name],
                "A4C",
                attributes=self._keep_possible(name, _LIST, _attributes(row, table, name)),
            )
            for name, row in found
        ]
        self._tracings = self._read_tracings()
        self._skip(f"rows of {_LIST} without a video", missing, "put the videos into Videos")
        unlisted = sorted(set(videos) - set(self._promised))
        self._skip(f"videos without a row in {_LIST}", unlisted, "add rows, or remove the videos")
        untaken = sorted(set(self._tracings) - set(self._promised))
        self._skip("tracings of unlisted videos", untaken, f"add rows to {_LIST}")
        for name, _ in found:
            self._skip_beyond(name, self._promised[name])
        files = [[videos[name]] for name, _ in found]
        self._set_records(records, files, {}, [table, self.root / _TRACINGS])

    def _length(self, stated: float | None, name: str) -> float | None:
        """Return the stated number of frames; None, and noted, if it is none."""
        if stated is None or (stated >= 1 and stated.is_integer()):
            return stated
        reason = f"{_LIST}: NumberOfFrames is {stated:g}: give a whole number from 1; it counts as unknown"
        self._note(IMPOSSIBLE, name, reason)
        return None

    def _read_tracings(self) -> dict[str, dict[int, NDArray[np.float64]]]:
        """Read, by video and frame, the lines (n, 4) or points (n, 2) in file order."""
        path = self.root / _TRACINGS
        rows = read_rows(path, ("FileName", "Frame"), (*_LINES, *_POINTS))
        columns = _POINTS if rows and set(_POINTS) <= set(rows[0]) else _LINES
        if any(not row["FileName"] for row in rows):
            raise DataError(
                f"{path}: column 'FileName' has an empty cell, perhaps below merged ones; "
                "name the video in each row"
            )
        if rows and not set(columns) <= set(rows[0]):
            read_rows(path, ("FileName", "Frame", *_LINES))  # names the missing column
        numbers = {text: _frame(text) for text in {row["Frame"] for row in rows}}
        unknown = [f"{row['FileName']} frame {row['Frame']!r}" for row in rows if numbers[row["Frame"]] is None]
        self._skip("tracings without a frame", sorted(set(unknown)), "give the number of the frame, from 0")
        rows = [row for row in rows if numbers[row["Frame"]] is not None]
        lines = np.stack([_floats(rows, column, path) for column in columns], axis=1)
        places: dict[str, dict[int, list[int]]] = {}
        names = {text: _stem(text) for text in {row["FileName"] for row in rows}}
        for place, row in enumerate(rows):
            frame = numbers[row["Frame"]]
            assert frame is not None
            places.setdefault(names[row["FileName"]], {}).setdefault(frame, []).append(place)
        return {name: {frame: lines[of] for frame, of in frames.items()} for name, frames in places.items()}

    def _skip_beyond(self, name: str, length: float | None) -> None:
        """Skip traced frames that a video does not have."""
        beyond = [
            frame for frame in self._tracings.get(name, {}) if length is not None and not 0 <= frame < length
        ]
        if beyond and name not in self._shortened:
            self._shortened.add(name)
            shown = [f"{name} frame {frame}" for frame in sorted(beyond)]
            self._skip(_BEYOND, shown, f"the video has {length:g} frames, counted from 0; correct the table")

    def _load(self, index: int) -> Sample:
        record, path = self.records[index], self._files[index][0]
        video = read_video(path)
        length, height, width = video.frames.shape
        promised = self._promised[record.id]
        if promised is not None and length < promised:
            raise DataError(
                f"{path}: has {length} frames, but {_LIST} states {promised:g}; get the video again, or "
                "correct the list"
            )
        self._skip_beyond(record.id, length)
        traced = self._tracings.get(record.id, {})
        frames = [frame for frame in sorted(traced) if 0 <= frame < length]
        if not frames:
            return Sample(record, video.frames)
        stated = self._sizes[record.id]
        if None not in stated and stated != (height, width):
            reason = (
                f"has {height} x {width} pixels, but {_LIST} states {stated[0]:g} x {stated[1]:g}: check "
                "that the tracings are in pixels of this video"
            )
            self._note("traced videos of another size than listed", self._relative(path), reason)
        masks = np.stack([self._mask(record.id, frame, traced[frame], (height, width)) for frame in frames])
        areas = masks.sum((1, 2))
        ed, es = (frames[int(areas.argmax())], frames[len(frames) - 1 - int(areas[::-1].argmin())])
        known = len(frames) > 1
        return Sample(
            record,
            video.frames,
            masks={"lv": masks},
            mask_frames=np.asarray(frames, np.int64),
            ed=ed if known else None,
            es=es if known else None,
        )

    def _mask(
        self, name: str, frame: int, lines: NDArray[np.float64], shape: tuple[int, int]
    ) -> NDArray[np.bool_]:
        try:
            return tracing_mask(lines, shape) if lines.shape[1] == len(_LINES) else outline_mask(lines, shape)
        except DataError as error:
            raise DataError(f"{self.root / _TRACINGS}: {name} frame {frame}: {error}") from error


def _find_videos(folder: Path) -> dict[str, Path]:
    """Map names without suffix to videos."""
    videos: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix.lower() in VIDEOS and path.name[0] != ".":
            name = _stem(path.name)
            if name in videos:
                raise DataError(f"{videos[name]} and {path} have the same name: keep one")
            videos[name] = path
    return videos


def _stem(name: str) -> str:
    """Remove the folder, possibly of Windows, and the suffix from the name of a video."""
    last = unicodedata.normalize("NFC", PureWindowsPath(name).name)
    suffix = PureWindowsPath(last).suffix
    return last.removesuffix(suffix) if suffix.lower() in VIDEOS else last


def _attributes(row: dict[str, str], table: Path, name: str) -> dict[str, float | int | str]:
    attributes: dict[str, float | int | str] = {}
    for column, attribute in _NUMBERS.items():
        value = read_number(row, column, table, name)
        if value is not None:
            attributes[attribute] = value
    attributes.update({column: row[column] for column in _OF_CHILDREN if row.get(column)})
    if row.get("Split", "").isdecimal():
        attributes["fold"] = int(row["Split"])
    return attributes


def _splits(
    rows: Sequence[tuple[str, dict[str, str]]],
    split: str | os.PathLike[str] | Mapping[str, Any] | None,
    seed: int,
) -> dict[str, str]:
    """Map videos to splits, ``""`` for none."""
    if split is None:
        return {name: _split(row["Split"], name) for name, row in rows}
    mapping = split if isinstance(split, Mapping) else read_split(split)
    drawn = all(isinstance(share, float) for share in mapping.values())
    folds = {name: row.get("Split", "") for name, row in rows}
    groups = {name: fold if fold.isdecimal() and not drawn else name for name, fold in folds.items()}
    splits = resolve_splits(groups.values(), mapping, seed)
    return {name: splits[group] for name, group in groups.items()}


def _split(word: str, name: str) -> str:
    split = word.lower()
    if split in SPLITS or not split:
        return split
    if split.isdecimal():  # a fold
        return ""
    raise DataError(f"{_LIST}: {name}: unknown Split {word!r}; {nearest(word, map(str.upper, SPLITS))}")


def _frame(text: str) -> int | None:
    """Parse the number of a frame; None for text such as ``No Systolic``."""
    try:
        return int(float(text)) if float(text).is_integer() else None
    except (ValueError, OverflowError):
        return None


def _floats(rows: Sequence[dict[str, str]], column: str, path: Path) -> NDArray[np.float64]:
    cells = [row[column].replace(",", ".") or "nan" for row in rows]
    try:
        return np.array(cells, np.float64)
    except ValueError as error:
        raise DataError(f"{path}: column {column!r} must hold numbers ({error})") from error


def tracing_mask(lines: NDArray[np.float64], shape: tuple[int, int]) -> BoolArray:
    """Fill the outline that chords span.

    One line is the long axis; the others are chords across it. The outline follows the first ends of the chords
    and returns along their second ends; corners are rounded to whole pixels, as in the archive's own code (Ouyang
    et al., Nature 2020). Lines may be in any order and direction.

    Args:
        lines: (n, 4) rows of X1, Y1, X2, Y2 in pixels of the frame.
        shape: (H, W) of the frame.

    Returns:
        (H, W) bool; borders belong to the mask.

    Raises:
        DataError: Fewer than two chords, no long axis or two, a coordinate that is not finite or lies outside the
            frame, or an empty mask.
    """
    if lines.ndim != 2 or lines.shape[1] != 4 or len(lines) < 3:
        raise DataError(f"a tracing needs a long axis and at least two chords (n, 4), got {lines.shape}")
    _check_points(lines.reshape(-1, 2), shape)
    chords = _sorted_chords(lines)
    return _fill(np.concatenate([chords[:, :2], chords[::-1, 2:]]), shape)


def outline_mask(points: NDArray[np.float64], shape: tuple[int, int]) -> BoolArray:
    """Fill an outline given by its points, as EchoNet-Pediatric has it.

    Args:
        points: (n, 2) x and y in pixels of the frame, in order along the outline.
        shape: (H, W) of the frame.

    Returns:
        (H, W) bool; borders belong to the mask.

    Raises:
        DataError: Fewer than three points, a coordinate that is not finite or lies outside the frame, or an empty
            mask.
    """
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3:
        raise DataError(f"an outline needs at least three points (n, 2), got {points.shape}")
    _check_points(points, shape)
    return _fill(points, shape)


def _check_points(points: NDArray[np.float64], shape: tuple[int, int]) -> None:
    if not np.isfinite(points).all():
        raise DataError("a tracing holds coordinates that are not finite; correct its rows or remove them")
    if points.min() >= 0 and points.max() <= 1:
        raise DataError("all coordinates of a tracing lie between 0 and 1; give them in pixels, not as fractions")
    limits = np.array([shape[1] - 1, shape[0] - 1])
    outside = ((points < -_MARGIN) | (points > limits + _MARGIN)).any(1)
    if outside.any():
        x, y = points[outside][0]
        raise DataError(
            f"{outside.sum()} of {len(points)} points of a tracing lie outside the frame of {shape[1]} x "
            f"{shape[0]} pixels, the first at ({x:g}, {y:g}); give coordinates in pixels of this video"
        )


def _sorted_chords(lines: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sort chords (n - 1, 4) along the long axis, all of them from the same side to the other.

    Chords are parallel and the axis runs across them. Their common direction is the mean of the doubled angles, in
    which a line and its reverse are the same.
    """
    steps = lines[:, 2:] - lines[:, :2]
    lengths = np.hypot(*steps.T)
    doubled = 2 * np.arctan2(steps[:, 1], steps[:, 0])[lengths > 0]
    angle = np.arctan2(np.sin(doubled).sum(), np.cos(doubled).sum()) / 2
    along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    # near the apex chords are short, and rounded ends may turn them any way
    is_axis = (np.abs(steps @ across) > np.abs(steps @ along)) & (lengths >= lengths.max() / 4)
    if is_axis.sum() != 1:
        what = f"{is_axis.sum()} long axes" if is_axis.any() else "no long axis"
        raise DataError(
            f"a tracing of {len(lines)} lines has {what}; it needs one line across parallel chords: correct its "
            "rows, or remove duplicate rows"
        )
    chords = lines[~is_axis]
    reverse = steps[~is_axis] @ along < 0
    chords[reverse] = chords[reverse][:, [2, 3, 0, 1]]
    places = (chords[:, :2] + chords[:, 2:]) @ across
    ordered: NDArray[np.float64] = chords[np.argsort(places, kind="stable")]
    return ordered


def _fill(outline: NDArray[np.float64], shape: tuple[int, int]) -> BoolArray:
    mask = fill_polygon(shape, np.rint(outline)[:, ::-1])
    if not mask.any():
        raise DataError("a tracing encloses no pixel; correct its rows or remove them")
    return mask
