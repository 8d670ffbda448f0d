"""Reader of a feature cache, by global frame index."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import ArrayLike

from alan.arrays import IntArray
from alan.cache.layout import FEATURES, REMEDY, CacheManifest, places, read_attribute, read_index, short
from alan.errors import CacheError
from alan.rows import CheckedRows, Place, check_name

#: A file and the place of a dataset in it.
_Source = tuple[Path, Place]


class HasFingerprint(Protocol):
    """Anything with a fingerprint: a backbone, a parcel model or a frame store."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex)."""


class FeatureCache:
    """Features of the frames of a store, by global frame index.

    The tables are read at once. The features are mapped into memory at the first read in each process, so that a
    cache can be pickled or forked into the workers of a loader. Every row is compared with its checksum
    when it is first read. Shards of several ranks read as one cache.

    Args:
        path: File written by :func:`alan.cache.write_cache`.
        backbone: Backbone that must have written the cache; None accepts any.
        parcels: Parcel model that must have written the logits and maps; None accepts any.
        store: Frame store that the frames must come from; None accepts any.

    Attributes:
        path: The file.
        manifest: Inputs and settings that the cache was made from.
        index: (n,) int64, global frame indices in the order of writing.

    Raises:
        CacheError: The file is missing, unfinished, truncated, damaged or of another schema, or it belongs to
            another backbone, parcel model or store; the message gives both fingerprints.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        backbone: HasFingerprint | None = None,
        parcels: HasFingerprint | None = None,
        store: HasFingerprint | None = None,
    ) -> None:
        self.path = Path(path)
        self._check_present()
        self.manifest, shards = _open(self.path)
        for name, given in (("backbone", backbone), ("parcels", parcels), ("store", store)):
            self._check_origin(name, getattr(self.manifest, name), given)
        self.index: IntArray = np.concatenate([index for index, _ in shards])
        if len(np.unique(self.index)) != len(self.index) or len({tuple(sorted(one)) for _, one in shards}) > 1:
            raise CacheError(f"{self.path}: its shards do not fit together; write it again with `alan cache`")
        self._sources = [sources for _, sources in shards]
        self._starts = np.cumsum([0, *(len(index) for index, _ in shards)])
        self._order = np.argsort(self.index)
        self._rows_of: dict[str, list[CheckedRows]] = {}

    def _check_present(self) -> None:
        if not self.path.is_file():
            part = self.path.with_name(f"{self.path.name}.part")
            if part.exists():
                raise CacheError(
                    f"{self.path}: not finished ({part.name} is there): run the same `alan cache` again"
                )
            raise CacheError(f"{self.path}: no such feature cache; write it with `alan cache`")

    def _check_origin(self, name: str, wanted: str, given: HasFingerprint | None) -> None:
        if given is not None and given.fingerprint != wanted:
            raise CacheError(
                f"{self.path}: was written with {name} {short(wanted)}, given {name} {short(given.fingerprint)}: "
                f"give the {name} it was written with, or write it again with `alan cache`"
            )

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.index)

    def __repr__(self) -> str:
        return f"FeatureCache({str(self.path)!r}: {', '.join(self.names)} of {len(self)} frames)"

    def __reduce__(self) -> tuple[type[FeatureCache], tuple[Path]]:
        return FeatureCache, (self.path,)

    @property
    def names(self) -> tuple[str, ...]:
        """Features in the cache: some of ``cls``, ``tokens``, ``sector``, ``logits``, ``maps``."""
        return tuple(sorted(name for name in self._sources[0] if name in FEATURES))

    def read(self, name: str, index: ArrayLike) -> Any:
        """Read a feature of some frames.

        Args:
            name: One of :attr:`names`: ``cls`` is (n, D) float32, ``tokens`` (n, h, w, D) float16, ``sector``
                (n, h, w) bool, ``logits`` (n, K, h, w) float16, ``maps`` (n, H, W) uint8 at the size of the store.
            index: (n,) global frame indices of the store, in any order; repeats are allowed.

        Raises:
            CacheError: The cache has no such feature, a frame is missing, or its row is damaged; the message names
                the frame.
        """
        if name not in self._sources[0]:
            raise CacheError(
                f"{self.path}: has no {name}, only {', '.join(self.names)}: write it with {name} in features"
            )
        rows = self._rows(index)
        shards = self._open_rows(name)
        _, (_, shape, dtype) = self._sources[0][name]
        out = np.empty((len(rows), *shape[1:]), dtype)
        of_shard = np.searchsorted(self._starts, rows, side="right") - 1
        for number, shard in enumerate(shards):
            mine = of_shard == number
            out[mine] = shard.read(rows[mine] - self._starts[number])
        return out

    def _open_rows(self, name: str) -> list[CheckedRows]:
        """Return the rows of a feature in each shard; they are mapped at the first call."""
        if name not in self._rows_of:
            parts, what = np.split(self.index, self._starts[1:-1]), f"{name} of frame"
            self._rows_of[name] = [
                CheckedRows(path, what, index, place, crc, kind=CacheError, remedy=REMEDY)
                for index, sources in zip(parts, self._sources, strict=True)
                for (path, place), (_, crc) in [(sources[name], sources[check_name(name)])]
            ]
        return self._rows_of[name]

    def missing(self, index: ArrayLike) -> IntArray:
        """Return the global frame indices that are not in the cache, (m,) int64 in the order given."""
        wanted = np.asarray(index, np.int64)
        return wanted[~np.isin(wanted, self.index)]

    def _rows(self, index: ArrayLike) -> IntArray:
        """Find the rows of global frame indices, numbered over all shards."""
        wanted = np.asarray(index)
        if wanted.ndim != 1 or (wanted.size and wanted.dtype.kind not in "iu"):
            raise CacheError(f"{self.path}: index is {wanted.dtype} {wanted.shape}: give whole numbers (n,)")
        wanted = wanted.astype(np.int64)
        sorted_index = self.index[self._order]
        absent = self.missing(wanted)
        if len(absent):
            more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
            chosen = ", ".join(f"{k} {v}" for k, v in self.manifest.settings.items() if k in _SELECTION)
            raise CacheError(
                f"{self.path}: frame {absent[0]}{more} is not in the cache, which has {len(self)} frames "
                f"({chosen}): write a cache that includes it"
            )
        return self._order[np.searchsorted(sorted_index, wanted)]


_SELECTION = ("split", "views", "frames")


def _open(path: Path) -> tuple[CacheManifest, list[tuple[IntArray, dict[str, _Source]]]]:
    """Read the manifest, and for each shard its index and the places of its datasets."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            manifest = CacheManifest.read(file.attrs, str(path))
            names = json.loads(read_attribute(file.attrs, "shards")) if "shards" in file.attrs else []
            if not names:
                return manifest, [_tables(path, file)]
        return manifest, [_shard(path.with_name(name), manifest) for name in names]
    except CacheError:
        raise
    except Exception as error:  # what HDF5 raises for a damaged file is not documented
        reason = " ".join(str(error).split())[:200]
        raise CacheError(
            f"{path}: not a whole feature cache ({reason}); write it again with `alan cache`"
        ) from error


def _shard(path: Path, manifest: CacheManifest) -> tuple[IntArray, dict[str, _Source]]:
    if not path.is_file():
        raise CacheError(f"{path}: this shard of the cache is missing: put it back, or write the cache again")
    with h5py.File(path, "r", locking=False) as file:
        words = CacheManifest.read(file.attrs, str(path)).differences(manifest)
        if words:
            raise CacheError(f"{path}: belongs to another cache ({'; '.join(words)}): write the cache again")
        return _tables(path, file)


def _tables(path: Path, file: Any) -> tuple[IntArray, dict[str, _Source]]:
    index = read_index(file, path)
    if not file["done"][:].all():
        raise CacheError(f"{path}: not all frames are written: run the same `alan cache` again")
    return index, {name: (path, place) for name, place in places(file, path).items()}
