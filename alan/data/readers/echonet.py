"""EchoNet-Dynamic: A4C videos, LV tracings at end-diastole and end-systole, ejection fractions."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alan.data.io.video import read_video
from alan.data.readers.base import EchoDataset, check_columns
from alan.data.readers.tracings import tracing_mask
from alan.data.sample import SPLITS, Record, Sample
from alan.errors import DataError, nearest

_LIST_COLUMNS = ("FileName", "EF", "ESV", "EDV", "FPS", "NumberOfFrames", "Split")
_TRACING_COLUMNS = ("FileName", "X1", "Y1", "X2", "Y2", "Frame")
#: Frame number to its lines (n, 4), as :func:`alan.data.readers.tracings.tracing_mask` takes them.
_Tracings = Mapping[int, NDArray[np.float64]]


class EchoNetDynamic(EchoDataset):
    """The official release: ``Videos/*.avi``, ``FileList.csv``, ``VolumeTracings.csv``.

    One video is one patient, the view is A4C, pixel sizes are not known. Exactly the traced frames carry masks;
    of these the largest LV is ED and the smallest is ES (the earlier of two equal ones is ED). A video with one
    traced frame has neither, a video without tracings is kept without masks. Rows of the list without a video
    and tracings beyond the end of the video are skipped, counted and warned of.

    Args:
        root: folder of the release.

    Raises:
        DataError: a missing folder, table or column, or a split that is none of TRAIN, VAL, TEST.
    """

    name: ClassVar[str] = "EchoNet-Dynamic"
    structures = ("lv",)

    def __init__(self, root: str | os.PathLike[str]) -> None:
        super().__init__(root, "Videos/, FileList.csv and VolumeTracings.csv")
        table = _read_table(self.root / "FileList.csv", _LIST_COLUMNS)
        tracings = _read_table(self.root / "VolumeTracings.csv", _TRACING_COLUMNS)
        if tracings["Frame"].isna().any():
            raise DataError(f"{self.root / 'VolumeTracings.csv'}: column 'Frame' has empty cells")
        self._tracings = _group(tracings)
        self._shortened: set[str] = set()
        records: list[Record] = []
        videos: list[list[Path]] = []
        missing: list[str] = []
        outside: list[str] = []
        for row in table.to_dict("records"):
            name = _stem(row["FileName"])
            video = self.root / "Videos" / f"{name}.avi"
            if not video.is_file():
                missing.append(name)
                continue
            numbers = {"EF": row["EF"], "ESV": row["ESV"], "EDV": row["EDV"], "fps": row["FPS"]}
            attributes = {key: float(value) for key, value in numbers.items() if pd.notna(value)}
            records.append(Record(name, name, _side(row["Split"], name), "A4C", attributes=attributes))
            videos.append([video])
            length = row["NumberOfFrames"] if pd.notna(row["NumberOfFrames"]) else np.inf
            beyond = {frame for frame in self._tracings.get(name, {}) if not 0 <= frame < length}
            outside.extend(f"{name} frame {frame}" for frame in sorted(beyond))
        self._skip("rows of FileList.csv without a video", missing)
        self._skip(_BEYOND, outside)
        tables = {f: (self.root / f).stat().st_size for f in ("FileList.csv", "VolumeTracings.csv")}
        self._set_records(records, videos, tables)
        self._shortened.update(entry.split(" frame ")[0] for entry in outside)

    def _load(self, index: int) -> Sample:
        record = self.records[index]
        video = read_video(self._files[index][0])
        length, *shape = video.frames.shape
        traced = self._tracings.get(record.id, {})
        frames = [frame for frame in sorted(traced) if 0 <= frame < length]
        if len(frames) < len(traced) and record.id not in self._shortened:
            self._shortened.add(record.id)
            self._skip(_BEYOND, [f"{record.id} frame {frame}" for frame in sorted(set(traced) - set(frames))])
        if not frames:
            return Sample(record, video.frames)
        try:
            masks = np.stack([tracing_mask(traced[frame], (shape[0], shape[1])) for frame in frames])
        except DataError as error:
            raise DataError(f"{self.root / 'VolumeTracings.csv'}: {record.id}: {error}") from error
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


_BEYOND = "traced frames beyond the end of their video"


def _read_table(path: Path, required: tuple[str, ...]) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, dtype={"FileName": str})
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; the folder must hold {path.name} of the release") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a CSV file ({error})") from error
    check_columns(list(table.columns), required, path)
    for column in set(required) - {"FileName", "Split"}:
        try:
            table[column] = pd.to_numeric(table[column])
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}: column {column!r} must hold numbers ({error})") from error
    if table["FileName"].isna().any():
        raise DataError(f"{path}: column 'FileName' has empty cells")
    return table


def _stem(name: object) -> str:
    return str(name).strip().removesuffix(".avi")


def _side(value: object, name: str) -> str:
    side = str(value).strip().lower()
    if side not in SPLITS:
        raise DataError(
            f"FileList.csv: {name}: unknown Split {value!r}; {nearest(str(value), map(str.upper, SPLITS))}"
        )
    return side


def _group(table: pd.DataFrame) -> dict[str, _Tracings]:
    """Lines by video and frame; the order within a frame is that of the file."""
    names = np.asarray([_stem(name) for name in table["FileName"]], object)
    frames = table["Frame"].to_numpy(np.int64)
    lines = table[["X1", "Y1", "X2", "Y2"]].to_numpy(np.float64)
    codes, _ = pd.factorize(names)
    order = np.lexsort((frames, codes))  # stable
    keys = np.stack([codes[order], frames[order]], 1)
    starts = np.flatnonzero(np.r_[True, (np.diff(keys, axis=0) != 0).any(1)][: len(keys)]).tolist()
    grouped: dict[str, dict[int, NDArray[np.float64]]] = {}
    for start, stop in zip(starts, [*starts[1:], len(keys)], strict=True):
        rows = order[start:stop]
        grouped.setdefault(str(names[rows[0]]), {})[int(frames[rows[0]])] = lines[rows]
    return dict(grouped)
