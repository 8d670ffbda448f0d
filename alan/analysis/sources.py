"""Find the loops among files and folders, and choose the pseudonyms that replace their names in every output."""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

from alan.analysis.copies import find_copies
from alan.analysis.identities import tell_apart
from alan.analysis.path_rules import captured_patient, compile_rule, stated_view
from alan.data.io.base import MAKE_READABLE
from alan.data.io.cine import DICOM, LABEL_MAP, LABELS, VIDEOS, is_cine, kind_of, stem, unread_reason
from alan.data.io.dicom import is_dicom
from alan.data.io.dicom_header import DicomReferences, Person, read_person, read_references
from alan.data.io.dicom_index import describe_index
from alan.data.io.dicom_series import find_split_loops
from alan.data.io.key_frames import find_key_frames
from alan.data.io.medical import MEDICAL
from alan.data.io.picture_series import FEWEST, is_picture_loop
from alan.data.io.pictures import ANIMATIONS, PICTURES
from alan.data.pseudonyms import patient_key
from alan.data.readers.base import SIMULATION
from alan.data.store.layout import StoredSequence
from alan.data.store.reader import FrameStore
from alan.errors import SHORTAGE, AlanWarning, DataError
from alan.files import HDF5, files_below, unreachable_below, write_rows
from alan.runs import CONFIG, command_of
from alan.words import plural

_INDEX = "DICOMDIR"
_UNKNOWN = Person()
#: Endings of files that hold the pixels of a MetaImage or NIfTI file beside them, and those of its header.
_PIXELS = {".raw": (".mhd",), ".zraw": (".mhd",), ".img": (".hdr",)}
#: Words that stay in messages even if a file or a folder has that name: they identify nobody.
_PLAIN = {
    *("archive", "cannot", "copy", "damaged", "data", "decoded", "dicom", "echo", "empty", "ends", "file"),
    *("files", "frame", "frames", "header", "image", "images", "input", "loop", "loops", "picture", "pictures"),
    *("pixel", "pixels", "region", "sector", "series", "size", "still", "stills", "times", "video", "videos"),
}
_NUMBERED = re.compile(r"(.*?)(\d+)\)?")  # Windows numbers files (1), (2)


@dataclass(frozen=True)
class Source:
    """A loop to analyze.

    Attributes:
        path: The file, or the first one of a series of stills or DICOM files of one frame. No output may name it.
        patient: Pseudonymous key of the patient.
        name: Pseudonymous name of the loop, unique and safe as the name of a folder.
        stills: Further files of the series, in the order of time.
        sequence: Position of the sequence in a frame store, or None.
        key_frames: Positions of the end-diastolic and the end-systolic frame if the loop has only these two.
        alone: Number of the numbered pictures to which this still belongs, which are not a loop; 0 for others.
        doubt: Reason why the patient may be several people, or one of several; empty without one.
        view: View that the frame store or the path of the file states; None if it is to be recognised.
    """

    path: Path
    patient: str
    name: str
    stills: tuple[Path, ...] = ()
    sequence: int | None = None
    alone: int = 0
    doubt: str = ""
    key_frames: tuple[int, int] | None = None
    view: str | None = None

    @property
    def simulated(self) -> bool:
        """Whether the loop is known to be simulated, by its frame store or by the archive of the file."""
        if self.sequence is not None:
            return FrameStore(self.path).simulated
        return any((folder / SIMULATION).is_file() for folder in self.path.resolve().parents)

    def references(self, *, keep: bool) -> DicomReferences | None:
        """Read the instance that DICOM objects of the loop refer to; None if the loop is not a DICOM file.

        Args:
            keep: See :func:`alan.data.io.dicom_header.read_references`.
        """
        if self.sequence is not None or not is_dicom(self.path):
            return None
        return read_references(self.path, *self.stills, keep=keep)

    @property
    def note(self) -> str:
        """Note about numbered stills: they lack some numbers, or are not a loop; empty for others."""
        if self.alone:
            return f"one of {self.alone} numbered pictures that do not resemble one another as those of a loop do"
        matches = [_NUMBERED.fullmatch(path.stem) for path in (self.path, *self.stills) if self.stills]
        steps = {int(later[2]) - int(first[2]) for first, later in pairwise(filter(None, matches))}
        if len(steps) < 2 or is_dicom(self.path):
            return ""
        return f"the numbers of its pictures step by {min(steps)} to {max(steps)}: some seem to be missing"

    def redact(self, text: str) -> str:
        """Replace the names of files and folders in a message, and words that it quotes from them."""
        for path in (self.path, *self.stills):
            for known in (path, path.absolute(), path.resolve()):
                text = text.replace(f"{known}: ", "").replace(str(known), self.name)
                beside = re.escape(str(known.parent / known.stem))  # such as the file of its pixels
                text = re.sub(rf"(?<![\w/]){beside}(?=\.\w)", self.name, text)
            words = {path.name, path.stem, *path.absolute().parent.parts[1:]}
            named = {word for word in words if len(word) > 3} - _PLAIN
            for word in sorted(named, key=len, reverse=True):
                text = re.sub(rf"(?<![\w]){re.escape(word)}(?![\w])", self.name, text)
        return re.sub(rf"[^\s:]*{self.name}(?:/[^\s:]*{self.name})+", self.name, text)


@dataclass(frozen=True)
class _Found:
    """A loop and the information that may identify its patient."""

    paths: tuple[Path, ...]
    relative: str
    person: Person = _UNKNOWN
    sequence: int | None = None
    alone: int = 0
    key_frames: tuple[int, int] | None = None
    view: str | None = None

    @property
    def place(self) -> str:
        """Unique name of this loop on this machine."""
        return f"{self.paths[0].resolve()}#{'' if self.sequence is None else self.sequence}"

    @property
    def key(self) -> str:
        """Pseudonym of the place."""
        return _place_key(self.place)


def find_sources(
    inputs: Sequence[str | os.PathLike[str]],
    patient: str | None = None,
    leave_out: str | os.PathLike[str] | None = None,
    *,
    timed: bool = False,
    views: Mapping[str, str] = MappingProxyType({}),
) -> tuple[list[Source], list[tuple[str, str]]]:
    r"""Find the loops among files and folders.

    Loops are files that :func:`alan.data.read_cine` reads, the sequences of frame stores (``.h5``), series of
    numbered stills (``a4c_001.png``, ``a4c_002.png``) in one folder that have one patient by the rule and resemble
    one another (:func:`alan.data.io.picture_series.is_picture_loop`; others are stills), loops that were split
    into DICOM files of one frame (:func:`alan.data.io.dicom_series.find_split_loops`), and pairs of stills at
    end-diastole and end-systole (:func:`alan.data.io.key_frames.find_key_frames`). A file that is given by name is
    always included.

    The patient of a loop is the group ``patient`` of the rule, else that of the DICOM header or the frame store. A
    loop without either counts as a separate patient, and so does a date of birth if loops of one PatientID have
    several (:mod:`alan.analysis.identities`). Every key is a pseudonym by
    :func:`alan.data.pseudonyms.patient_key`: of the text that the rule captures, of the PatientID or the study,
    of the patient in the frame store, or of the path of the file below its input, without suffix.

    Args:
        inputs: Files and folders; folders are searched with all folders in them.
        patient: Regular expression that is searched in the path of a file below its input, with the group
            ``patient``: ``(?P<patient>p\d+)``.
        leave_out: Folder that is not searched, such as that of the results.
        timed: Whether the frame rate is given, so that DICOM files of one frame need not state it to be a loop.
        views: Mapping from a text to the view of the loops in whose path below the input it occurs.

    Returns:
        sources: The loops, sorted by path; no loop appears twice, nor does a copy of its file.
        left_out: Pseudonymous name and reason of each file that is not a loop.

    Raises:
        ParameterError: The rule is not a regular expression or has no group ``patient``, or a path has the texts
            of two views.
        DataError: An input does not exist, or two patients share a pseudonym.
    """
    rule = compile_rule(patient)
    found: dict[str, _Found] = {}
    left_out: dict[str, str] = {}
    for given in map(Path, inputs):
        for item in _search(given, rule, None if leave_out is None else Path(leave_out).resolve()):
            if isinstance(item, _Found):
                found.setdefault(item.place, item)
            else:
                left_out.setdefault(file_name(item[0]), item[1])
    whole = {n: item.paths[0] for n, item in found.items() if len(item.paths) == 1 and item.sequence is None}
    copies = find_copies(whole)
    loops = _joined([found[place] for place in sorted(found) if place not in copies], timed=timed)
    loops = [replace(item, view=stated_view(views, item.relative) or item.view) for item in loops]
    sources = _with_patients(loops, rule)
    names = {path: source.name for source in sources for path in (source.path, *source.stills)}
    for place, first in copies.items():
        reason = f"a copy of the file of loop {names[found[first].paths[0]]}"
        left_out[file_name(found[place].paths[0])] = reason
    return sources, list(left_out.items())


def _joined(found: Sequence[_Found], *, timed: bool) -> list[_Found]:
    """Put files of one frame together into loops and pairs of key frames, each in the place of its first file."""
    single = {item.paths[0]: item for item in found if len(item.paths) == 1 and item.sequence is None}
    pairs = find_key_frames(single)
    loops = {paths[0]: paths for paths in find_split_loops(filter(is_dicom, single), timed=timed)} | {
        ed: (ed, es) for ed, es in pairs.items()
    }
    parts = {path for paths in loops.values() for path in paths[1:]}
    return [
        replace(
            item,
            paths=loops.get(item.paths[0], item.paths),
            key_frames=(0, 1) if item.paths[0] in pairs else item.key_frames,
        )
        for item in found
        if item.paths[0] not in parts
    ]


def file_name(path: Path) -> str:
    """Return the pseudonymous name of a file that is left out."""
    return f"file_{_place_key(os.path.realpath(path))[1:9]}"  # resolve() refuses a link to itself


def _place_key(place: str) -> str:
    """Return a pseudonym that differs even for places that differ in spaces or in the form of Unicode only."""
    return patient_key(os.fsencode(place).hex())


def _search(
    given: Path, rule: re.Pattern[str] | None, leave_out: Path | None
) -> Iterator[_Found | tuple[Path, str]]:
    """Yield the loops of an input, and each other file with the reason to leave it out."""
    if given.is_file():
        if (locked := _locked(given, given.name)) is not None:
            yield locked
            return
        yield from _file(given, given.name, chosen=True)
        return
    if not given.is_dir():
        raise DataError(f"{given}: no such file or folder; check the spelling")
    series: dict[tuple[Path, str, str, str], list[tuple[int, Path]]] = defaultdict(list)
    files = files_below(given)
    if leave_out is not None:
        files = [path for path in files if not Path(os.path.realpath(path)).is_relative_to(leave_out)]
    results = _results_among(files, given)
    yield from ((folder, f"the results of an earlier `alan {command}`") for folder, command in results.items())
    for path in files:
        if not results.keys().isdisjoint(path.parents):
            continue
        if (locked := _locked(path, path.relative_to(given).as_posix())) is not None:
            yield locked
            continue
        match = _NUMBERED.fullmatch(path.stem)
        if match and path.name.lower().endswith(PICTURES) and not is_cine(path):
            patient = captured_patient(rule, path.relative_to(given).as_posix())
            series[path.parent, match[1], path.suffix.lower(), patient].append((int(match[2]), path))
        else:
            yield from _file(path, path.relative_to(given).as_posix(), chosen=False)
    yield from unreachable_below(given)
    alone: list[tuple[Path, ...]] = []
    for numbered in series.values():
        paths = tuple(path for _, path in sorted(numbered))
        if len(paths) == 1 or is_picture_loop(paths):
            yield _Found(paths, paths[0].relative_to(given).as_posix())
            continue
        if len(paths) >= FEWEST:
            alone.append(paths)
        for path in paths:
            yield _Found((path,), path.relative_to(given).as_posix(), alone=len(paths))
    if alone:
        warnings.warn(
            f"{sum(map(len, alone))} numbered pictures are analyzed as stills, because neighbours resemble each "
            f"other less than in a loop (the first is {alone[0][0]})",
            AlanWarning,
            stacklevel=4,
        )


def _results_among(files: Iterable[Path], given: Path) -> dict[Path, str]:
    """Find the folders of results, and their verbs.

    Their pictures show outlines or repeat frames of loops; the input itself may be the stills of `alan frames`.
    """
    found = {path.parent: command_of(path.parent) for path in files if path.name == CONFIG}
    return {folder: verb for folder, verb in found.items() if verb == "analyze" or (verb and folder != given)}


def _locked(path: Path, relative: str) -> _Found | tuple[Path, str] | None:
    """Return a file without read permission: as a loop, which will fail, if it is named like one."""
    try:
        path.open("rb").close()
    except OSError as error:
        if error.errno in SHORTAGE:
            raise
        if path.name.lower().endswith((*VIDEOS, *DICOM, *MEDICAL, *PICTURES, *ANIMATIONS)) or not path.suffix:
            return _Found((path,), relative)
        return path, f"cannot be read ({error.strerror}); {MAKE_READABLE}"
    return None


def _file(path: Path, relative: str, *, chosen: bool) -> Iterator[_Found | tuple[Path, str]]:
    if path.name.lower().endswith(HDF5):
        try:
            for sequence in FrameStore(path).sequences:
                person = Person(patient_key(sequence.patient))
                pair, view = _key_frames(sequence), sequence.view or None
                yield _Found((path,), relative, person, sequence.index, key_frames=pair, view=view)
        except DataError:
            yield path, "an HDF5 file that is not a frame store, or a damaged one: write it with `alan prepare`"
    elif stem(path.name).endswith(LABELS) and not chosen:
        yield path, LABEL_MAP
    elif path.name.upper() == _INDEX:
        yield path, describe_index(path)
    elif (reason := unread_reason(path.name)) and not is_dicom(path):
        yield path, reason
    elif chosen or kind_of(path):
        yield _Found((path,), relative, read_person(path) if is_dicom(path) else _UNKNOWN)
    elif any(path.with_suffix(header).is_file() for header in _PIXELS.get(path.suffix.lower(), ())):
        yield path, "the pixels of a file that is read by its header, which has the same name"
    else:
        yield path, "neither a video nor a picture: if it is one, give it the suffix of its format"


def _key_frames(sequence: StoredSequence) -> tuple[int, int] | None:
    """Return the places of the key frames of a sequence that consists of them."""
    if sequence.length != 2 or sequence.ed is None or sequence.es is None:
        return None
    return sequence.ed - sequence.start, sequence.es - sequence.start


def _with_patients(found: Iterable[_Found], rule: re.Pattern[str] | None) -> list[Source]:
    """Choose the pseudonyms of the patients and the names of the loops."""
    items = list(found)
    captured = [captured_patient(rule, item.relative) for item in items]
    missed = captured.count("")
    if rule is not None and missed:
        warnings.warn(
            f"the rule for patient matches the path of {len(items) - missed} of {len(items)} loops; of others, "
            "the patient is the one in the file, or unknown",
            AlanWarning,
            stacklevel=3,
        )
    known = tell_apart([_UNKNOWN if text else item.person for item, text in zip(items, captured, strict=True)])
    if known.doubts:
        warnings.warn(
            f"loops with one PatientID have different names or dates of birth, see the doubts of "
            f"{plural(len(known.doubts), 'patient')} (patient_unclear); give --patient to decide",
            AlanWarning,
            stacklevel=3,
        )
    stems = [patient_key(stem(item.relative)) for item in items]
    counts, sources = Counter(stems), []
    for item, text, key, own in zip(items, captured, known.keys, stems, strict=True):
        patient = (patient_key(text) if text else key) or (own if own and counts[own] == 1 else item.key)
        name = f"{patient}_{item.key[1:9]}"
        first, *stills = item.paths
        source = Source(first, patient, name, tuple(stills), item.sequence, item.alone)
        doubt = known.doubts.get(patient, "")
        sources.append(replace(source, doubt=doubt, key_frames=item.key_frames, view=item.view))
    twice = [name for name, count in Counter(source.name for source in sources).items() if count > 1]
    if twice:  # by chance, once in millions
        raise DataError(f"two loops have the pseudonym {twice[0]}: set another secret for the pseudonyms")
    return sources


def write_key(
    path: Path, sources: Sequence[Source], inputs: Sequence[str | os.PathLike[str]], others: Set[str]
) -> None:
    """Write the table that links pseudonyms to files.

    Args:
        path: CSV file to write.
        sources: The loops.
        inputs: The files and folders that were given.
        others: Names of further files below them that outputs mention.
    """
    found = [(source.name, source.patient, source.path) for source in sources]
    for given in map(Path, inputs):
        files = (
            [*files_below(given), *(path for path, _ in unreachable_below(given))] if given.is_dir() else [given]
        )
        found += [(name, "", file) for file in files if (name := file_name(file)) in others]
    rows = (
        (name, patient, os.fsencode(file).decode("utf-8", "backslashreplace")) for name, patient, file in found
    )
    write_rows(path, ("loop", "patient", "file"), rows)
