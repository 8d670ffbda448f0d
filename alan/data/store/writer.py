"""Preparation: decode an archive once into a frame store; resumable, atomic, by one process at a time."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from alan.bounds import NonNegativeInt, bounded
from alan.data.blanking import blank_frames
from alan.data.preprocessing import Preprocessing
from alan.data.readers.base import EchoDataset, Failure
from alan.data.sample import SPLITS, Sample
from alan.data.splits import check_split
from alan.data.store.layout import (
    FRAMES,
    MAPS,
    ORIGINALS,
    ROWS,
    SCHEMA,
    TABLES_CHECK,
    read_tables,
    tables_checksum,
)
from alan.data.store.part_file import Arrays, Entry, PartFile, describe_key
from alan.data.store.reader import FrameStore
from alan.errors import DataError, SkippedError, nearest
from alan.files import atomic, fingerprint
from alan.locks import lock_file
from alan.progress import quiet
from alan.rows import LIBVER, check_name, checksums
from alan.runs import FAILURES, report_failures
from alan.workers import end_with_main, usable_cpus

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_UNDECODABLE = "samples that could not be decoded"
_EMPTY = "samples without an annotated frame"


@bounded
def prepare(
    dataset: EchoDataset,
    out: str | os.PathLike[str],
    preprocessing: Preprocessing,
    frames: Literal["all", "annotated"] = "all",
    *,
    sector: bool = False,
    workers: NonNegativeInt | None = None,
    progress: bool = True,
    overwrite: bool = False,
    strict: bool = False,
) -> FrameStore:
    """Decode every sample of an archive and write a frame store.

    Decoded samples are kept in ``<out>.part`` until the store is complete: when a killed run is repeated, it
    continues after the last complete sample. The store is written at the end and then renamed, so that it is
    complete or absent; at that point the disk holds everything twice. Samples that cannot be used are skipped and
    listed in ``failures.csv`` in the folder of the store. If ``out`` was made from the same archive with the same
    settings, it is opened at once.

    Args:
        dataset: The archive. Samples that cannot be decoded are added to its ``failures``.
        out: The HDF5 file to write.
        preprocessing: How to resize frames and masks.
        frames: ``all``, or ``annotated`` for the frames with masks and those at ED and ES only.
        sector: Whether to blank everything outside the ultrasound sector and to paint over text inside it, see
            :mod:`alan.data.blanking`; samples without a sector are skipped.
        workers: Number of processes that decode; 0 decodes in this process; None takes one per core, at most 4.
        progress: Whether to show a progress bar.
        overwrite: Whether to replace a store, or unfinished work, that was made with other settings.
        strict: Whether to raise an error at the end if anything was skipped; the store is written nevertheless.

    Returns:
        The store, opened.

    Raises:
        DataError: There is nothing to write, ``out`` or its ``.part`` belongs to something else, or the disk is
            full.
        LockError: Another process is writing ``out``.
        SkippedError: Something was skipped, and ``strict`` is set.
        SplitLeakError: A patient or study is in two splits, and the dataset does not name that leak.
    """
    target = Path(out)
    if target.is_dir():
        raise DataError(f"{target}: is a folder; give the path of a file, such as {target / 'frames.h5'}")
    with lock_file(target):
        decoder = _Decoder(dataset, preprocessing, annotated=frames == "annotated", sector=sector)
        _prepare(decoder, target, workers=workers, progress=progress, overwrite=overwrite)
    store = FrameStore(target)
    if strict and store.skipped:
        counts = ", ".join(f"{n} {kind}" for kind, n in store.skipped.items())
        raise SkippedError(f"{target}: skipped {counts}; {FAILURES} beside it lists them")
    return store


def _prepare(decoder: _Decoder, target: Path, *, workers: int | None, progress: bool, overwrite: bool) -> None:
    """Write the store if it does not exist yet."""
    dataset, preprocessing = decoder.dataset, decoder.preprocessing
    if workers is None:
        workers = min(4, usable_cpus())
    key: dict[str, Any] = {
        "dataset": dataset.name,
        "data": dataset.fingerprint(),
        "preprocessing": preprocessing.to_dict(),
        "preprocessing_fingerprint": preprocessing.fingerprint,
        "frames": "annotated" if decoder.annotated else "all",
        **({"sector": True} if decoder.sector else {}),
    }
    part_path = target.with_name(f"{target.name}.part")
    if target.exists() and not overwrite:
        _check_same(target, key)
        part_path.unlink(missing_ok=True)  # left by a run that was killed after the store was complete
        return
    _check(dataset)
    before = list(dataset.failures)
    try:
        part = PartFile(part_path, key)
    except DataError:
        if not overwrite:
            raise
        part_path.unlink()
        part = PartFile(part_path, key)
    try:
        _decode(decoder, part, workers, progress)
        decoded = (Failure(*failure) for entry in part.entries for failure in entry.failures)
        failures = list(dict.fromkeys((*before, *decoded)))
        dataset.failures[:] = failures
        dropped = [": ".join(entry.failures[-1][:2]) for entry in part.entries if entry.sequence is None]
        if len(dropped) == len(part.entries):
            part.remove()
            raise DataError(f"{dataset.name}: none of {len(dropped)} samples can be used; the first: {dropped[0]}")
        attributes = {
            "schema": SCHEMA,
            "name": dataset.name,
            "simulated": dataset.simulated,
            "source": json.dumps(key),
            "preprocessing": json.dumps(preprocessing.to_dict()),
            "structures": json.dumps(dataset.structures),
            "skipped": json.dumps(dataset.skipped),
            "leaks": dataset.leaks,
        }
        _write(part, target, preprocessing.size, attributes, progress)
        part.remove()
    finally:
        part.close()
    report_failures(
        target.with_name(FAILURES),
        [(failure.file, failure.reason) for failure in failures],
        len(dataset) + len(before),
        strict=False,
        output=target.name,
        skipped=len(before) + len(dropped),
    )


def _check_same(target: Path, key: Mapping[str, Any]) -> None:
    """Refuse a store that was made from other data or with other settings."""
    store = FrameStore(target)
    if store.source != key:
        raise DataError(
            f"{target}: holds {describe_key(store.source)}, not {describe_key(key)}; "
            "write to another path, or replace it with --overwrite true"
        )


def _check(dataset: EchoDataset) -> None:
    if len(dataset) == 0:
        raise DataError(f"{dataset.name}: the archive has no samples")
    records = dataset.records
    for record in records:
        if record.split not in ("", *SPLITS):
            raise DataError(f"{record.id}: unknown split {record.split!r}: {nearest(record.split, SPLITS)}")
    if not dataset.leaks:
        check_split([r.patient for r in records], [r.split for r in records], [r.study for r in records])


class _Decoder(Dataset[tuple[Entry, Arrays | None]]):
    """Decode and resize samples, in this process or in a worker."""

    def __init__(
        self, dataset: EchoDataset, preprocessing: Preprocessing, *, annotated: bool, sector: bool = False
    ) -> None:
        self.dataset = dataset
        self.preprocessing = preprocessing
        self.annotated, self.sector = annotated, sector

    def __getitem__(self, index: int) -> tuple[Entry, Arrays | None]:
        before = len(self.dataset.failures)
        kind = _UNDECODABLE
        try:
            sample = self.dataset[index]
            if self.sector:
                sample = _without_screen(sample)
            if self.annotated:
                kind = _EMPTY
                sample = _keep_annotated(sample)
            stored = self.preprocessing.apply(sample)
        except DataError as error:
            failure = self.dataset.failure(index, error, kind)
            return Entry(None, failures=(*self.dataset.failures[before:], failure)), None
        return _entry(sample, stored, tuple(self.dataset.failures[before:]))


def _without_screen(sample: Sample) -> Sample:
    """Blank everything outside the sector."""
    size = sample.spacing
    try:
        return replace(sample, frames=blank_frames(sample.frames, size[0] / size[1] if size else 1.0))
    except DataError as error:
        raise DataError(f"{sample.record.id}: {error}") from error


def _keep_annotated(sample: Sample) -> Sample:
    """Keep the frames with masks and those at ED and ES."""
    keep = sorted({*sample.mask_frames.tolist(), sample.ed, sample.es} - {None})
    if not keep:
        raise DataError(f"{sample.record.id}: no annotated frame")
    place = {frame: index for index, frame in enumerate(keep)}
    return replace(
        sample,
        frames=sample.frames[keep],
        mask_frames=np.array([place[frame] for frame in sample.mask_frames.tolist()], np.int64),
        ed=None if sample.ed is None else place[sample.ed],
        es=None if sample.es is None else place[sample.es],
    )


def _entry(sample: Sample, stored: Sample, failures: tuple[tuple[str, str, str], ...]) -> tuple[Entry, Arrays]:
    record = sample.record
    shape = sample.frames.shape[1:]
    sequence = {
        "id": record.id,
        "patient": record.patient,
        "study": record.study,
        "view": record.view,
        "split": record.split,
        "length": len(stored.frames),
        "ed": stored.ed,
        "es": stored.es,
        "spacing": sample.spacing,
        "original_shape": shape,
        "attributes": dict(record.attributes),
    }
    resized = shape != stored.frames.shape[1:]
    originals = sample.label_maps() if resized else np.zeros((0, 0, 0), np.uint8)
    labels = tuple(int(frame) for frame in stored.mask_frames)
    return Entry(sequence, labels, failures), Arrays(stored.frames, stored.label_maps(), originals)


def _decode(decoder: _Decoder, part: PartFile, workers: int, progress: bool) -> None:
    done, total = len(part.entries), len(decoder.dataset)
    if done == total:
        return
    loader: DataLoader[Any] = DataLoader(
        decoder,
        batch_size=None,
        sampler=range(done, total),
        num_workers=min(workers, total - done),
        collate_fn=_identity,
        worker_init_fn=end_with_main,
        generator=torch.Generator(),  # the loader draws a seed from it instead of the global generator
    )
    name = f"prepare {decoder.dataset.name}"
    with tqdm(total=total, initial=done, desc=name, unit="sample", disable=not progress or quiet()) as bar:
        for entry, arrays in loader:
            for file, reason, _ in entry.failures:
                _log.info("%s: %s", file, reason)
            part.append(entry, arrays)
            bar.update()


def _identity(item: _T) -> _T:
    return item


def _write(part: PartFile, target: Path, size: int, attributes: Mapping[str, Any], progress: bool) -> None:
    needed = 1.05 * part.path.stat().st_size + 1e6
    full = (
        f"{target}: no space left: the store needs about {needed / 1e6:.1f} MB in this folder; make room and run "
        f"again, everything decoded is kept in {part.path.name}"
    )
    if shutil.disk_usage(target.parent).free < needed:
        raise DataError(full)
    try:
        with atomic(target) as temporary, h5py.File(temporary, "w", libver=LIBVER) as file:
            _fill(file, part, size, attributes, progress)
    except (
        OSError,
        RuntimeError,
    ) as error:  # HDF5 reports a full disk in several ways, some without an error number
        if shutil.disk_usage(target.parent).free < needed:
            raise DataError(full) from error
        raise DataError(f"{target}: cannot be written ({' '.join(str(error).split())})") from error


def _fill(file: Any, part: PartFile, size: int, attributes: Mapping[str, Any], progress: bool) -> None:
    counts = dict(zip(ROWS, (part.total(0), part.total(1), part.total(1)), strict=True))
    crc = {name: np.zeros(count, np.uint32) for name, count in counts.items()}
    for name in (FRAMES, MAPS):
        file.create_dataset(name, (counts[name], size, size), np.uint8)
    originals = file.create_group(ORIGINALS)
    rows: list[dict[str, Any]] = []
    labels: list[int] = []
    start = 0
    with tqdm(total=counts[FRAMES], desc="write the store", unit="frame", disable=not progress or quiet()) as bar:
        for entry, arrays in part:
            places = start + np.arange(len(arrays.frames)), len(labels) + np.arange(len(arrays.maps))
            for name, place, values in zip((FRAMES, MAPS), places, (arrays.frames, arrays.maps), strict=True):
                if len(place):
                    file[name][place[0] : place[-1] + 1] = values
                    crc[name][place] = checksums(place, values)
            if len(arrays.originals):
                crc[ORIGINALS][places[1]] = checksums(places[1], arrays.originals)
            for index, original in zip(places[1], arrays.originals, strict=False):
                originals.create_dataset(str(index), data=original, compression="gzip")
            labels.extend(start + label for label in entry.labels)
            rows.append({**(entry.sequence or {}), "start": start})
            start += len(arrays.frames)
            bar.update(len(arrays.frames))
    file["labels/frame"] = np.array(labels, np.int64)
    _write_sequences(file, rows)
    identity = [attributes["source"], [[row["id"], row["length"]] for row in rows]]
    every = {**attributes, "fingerprint": fingerprint(identity)}
    file.attrs.update({name: _fixed([x])[0] if isinstance(x, str) else x for name, x in every.items()})
    for name, sums in crc.items():
        file[check_name(name)] = sums
    file.attrs[TABLES_CHECK] = tables_checksum(file.attrs, read_tables(file))


def _fixed(texts: Sequence[str]) -> NDArray[np.bytes_]:
    """Encode texts with one length: HDF5 hangs on a damaged heap, where it keeps texts of variable length."""
    return np.array([text.encode() or b"\0" for text in texts])


def _write_sequences(file: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    group = file.create_group("sequences")
    for name in ("id", "patient", "study", "view", "split"):
        group.create_dataset(name, data=_fixed([row[name] for row in rows]))
    group.create_dataset("attributes", data=_fixed([json.dumps(row["attributes"]) for row in rows]))
    for name in ("start", "length"):
        group.create_dataset(name, data=np.array([row[name] for row in rows], np.int64))
    for name in ("ed", "es"):
        indices = [-1 if row[name] is None else row["start"] + row[name] for row in rows]
        group.create_dataset(name, data=np.array(indices, np.int64))
    unknown = (np.nan, np.nan)
    group.create_dataset("spacing", data=np.array([row["spacing"] or unknown for row in rows], np.float64))
    group.create_dataset("original_shape", data=np.array([row["original_shape"] for row in rows], np.int64))
