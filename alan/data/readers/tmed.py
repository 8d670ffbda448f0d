"""TMED-2: stills with a view label and a diagnosis of aortic stenosis."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import ClassVar, Literal

import pandas as pd

from alan.data.io.pictures import read_picture
from alan.data.readers.base import EchoDataset, check_columns
from alan.data.sample import SPLITS, VIEWS, Record, Sample
from alan.errors import AlanWarning, DataError, ParameterError, nearest

_COLUMNS = ("query_key", "SourceFolder", "view_label")
_SPLIT_COLUMN = "view_classifier_split"
_DIAGNOSES = ("diagnosis_label", "diagnosis_classifier_split")
_NAME = re.compile(r"(?P<study>(?P<patient>\d+)s\d+)_\d+\.png")
_SPLIT_MODES = ("study", "published")


class Tmed2(EchoDataset):
    """The official release: PNG stills in ``SourceFolder`` and a table with a row a still.

    A file ``1009s2_10.png`` is image 10 of study ``1009s2`` of patient ``1009``. Images whose view label is
    none of PLAX, PSAX, A4C, A2C (such as ``A4CorA2CorOther``) have the view ``""``. Rows without an image, or
    of another kind of name, are skipped, counted and warned of. Pixel sizes are not known.

    Args:
        root: folder of the release.
        split: ``study`` takes the table's ``view_classifier_split`` and refuses it if a patient or study stands
            on two sides; other words than train, val and test there mean no side. ``published`` takes views and
            sides from the image-wise list behind Table 3 of the ALAN paper, **which leaks**: the data set warns
            and says so in ``leaks``. Its ``val`` side is what the paper tests on and becomes ``test`` here.
        labels: the table, absolute or relative to ``root``. Default: the only CSV file in ``root`` or a folder
            directly in it that has the columns.
        published_list: the published list (``Name;Class;Type``), needed for ``split="published"`` only. It is
            cumulative: a file's first line counts.
        views_only: leave out images without a view.

    Raises:
        ParameterError: an unknown ``split``, or ``published`` without its list (or the reverse).
        DataError: a missing folder, table or column; several tables to choose from.
        SplitLeakError: the study-wise split leaks.
    """

    name: ClassVar[str] = "TMED-2"
    structures = ()

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: Literal["study", "published"] = "study",
        labels: str | os.PathLike[str] | None = None,
        published_list: str | os.PathLike[str] | None = None,
        views_only: bool = False,
    ) -> None:
        super().__init__(root, "the images and their table of labels")
        if split not in _SPLIT_MODES:
            raise ParameterError(f"unknown TMED-2 split {split!r}: {nearest(split, _SPLIT_MODES)}")
        if (split == "published") != (published_list is not None):
            raise ParameterError(
                "split='published' and published_list (the path of the image-wise list) go together"
            )
        required = _COLUMNS if published_list is not None else (*_COLUMNS, _SPLIT_COLUMN)
        path = self.root / labels if labels is not None else _find_table(self.root, required)
        table = _read_table(path, required)
        published = _read_published(Path(published_list)) if published_list is not None else None
        records: list[Record] = []
        images: list[list[Path]] = []
        missing: list[str] = []
        unnamed: list[str] = []
        for row in table.to_dict("records"):
            key = row["query_key"].strip()
            image = self.root / row["SourceFolder"].strip().strip("/") / key
            parts = _NAME.fullmatch(key)
            view, side = (row["view_label"], row.get(_SPLIT_COLUMN, ""))
            if published is not None:
                view, side = published.get(key, ("", ""))
            view = view if view in VIEWS else ""
            if parts is None:
                unnamed.append(key)
            elif not image.is_file():
                missing.append(key)
            elif view or not views_only:
                records.append(
                    Record(
                        id=Path(key).stem,
                        patient=parts["patient"],
                        split=side if side in SPLITS else "",
                        view=view,
                        study=parts["study"],
                        attributes={name: row[name] for name in _DIAGNOSES if row.get(name)},
                    )
                )
                images.append([image])
        self._skip("rows whose query_key is not like 1009s2_10.png", unnamed)
        self._skip("rows without an image", missing)
        if published is not None:
            self.leaks = _describe_leak(records)
            warnings.warn(f"{self.name}: {self.leaks}", AlanWarning, stacklevel=2)
        self._set_records(records, images, {"split": split, "views_only": views_only})

    def _load(self, index: int) -> Sample:
        frame = read_picture(self._files[index][0])
        return Sample(self.records[index], frame[None])


def _find_table(root: Path, required: tuple[str, ...]) -> Path:
    """The one CSV file with the columns; if only one file is there at all, it shall say itself what it lacks."""
    candidates = sorted([*root.glob("*.csv"), *root.glob("*/*.csv")])
    if not candidates:
        raise DataError(f"{root}: no CSV file with the columns {', '.join(required)}; give its path as 'labels'")
    if len(candidates) == 1:
        return candidates[0]
    fitting = [path for path in candidates if set(required) <= _columns(path)]
    if len(fitting) != 1:
        shown = ", ".join(path.relative_to(root).as_posix() for path in (fitting or candidates)[:6])
        raise DataError(
            f"{root}: {len(fitting)} of {len(candidates)} CSV files have the columns {', '.join(required)}; "
            f"give one as 'labels' ({shown})"
        )
    return fitting[0]


def _columns(path: Path) -> set[str]:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return {name.strip().strip('"') for name in file.readline().split(",")}


def _read_table(path: Path, required: tuple[str, ...], separator: str = ",") -> pd.DataFrame:
    """A table of strings, empty cells as ``""``."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, sep=separator)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a CSV file ({error})") from error
    check_columns(list(table.columns), required, path)
    return table


def _read_published(path: Path) -> dict[str, tuple[str, str]]:
    """File name to (view, side); of several lines of a file the first counts."""
    table = _read_table(path, ("Name", "Class", "Type"), ";").drop_duplicates("Name")
    side = {"train": "train", "val": "test"}
    return {row["Name"]: (row["Class"], side.get(row["Type"], "")) for row in table.to_dict("records")}


def _describe_leak(records: list[Record]) -> str:
    studies = {record.study for record in records if record.split == "train"}
    tested = [record for record in records if record.split == "test"]
    leaking = sum(record.study in studies for record in tested)
    return (
        f"the published image-wise split leaks: {leaking} of {len(tested)} test images come from a study that "
        "is also in training; use split='study' for honest figures"
    )
