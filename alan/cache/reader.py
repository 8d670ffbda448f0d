"""Reading a feature cache by global frame index."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from alan.cache.manifest import Manifest, short
from alan.cache.shard import Place, places
from alan.data.sample import BoolArray, ByteArray, IntArray
from alan.errors import CacheError

#: A file, and where in it a dataset lies.
_Source = tuple[Path, Place]


class Fingerprinted(Protocol):
    """A backbone, a parcel model or a frame store: whatever says who it is."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex)."""


class FeatureCache:
    """Features of a frame store's frames, by global frame index.

    The tables are read at once; the features are mapped into memory on the first read, process by process, so a
    cache can be pickled or forked into the workers of a loader. Shards of several ranks read as one.

    Args:
        path: a file written by :func:`alan.cache.write_cache`.
        backbone: refuse the cache unless this backbone wrote it; None: any.
        parcels: refuse the cache unless this parcel model wrote its logits and maps; None: any.
        store: refuse the cache unless its frames are of this store; None: any.

    Attributes:
        path: the file.
        manifest: what the cache was made from.
        index: (n,) int64, the global frame indices it holds, in the order of writing.

    Raises:
        CacheError: the file is missing, unfinished, truncated, of another schema, or of another backbone, parcel
            model or store than the one given; the message names both fingerprints.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        backbone: Fingerprinted | None = None,
        parcels: Fingerprinted | None = None,
        store: Fingerprinted | None = None,
    ) -> None:
        self.path = Path(path)
        self._check_present()
        self.manifest, shards = _open(self.path)
        for name, given in (("backbone", backbone), ("parcels", parcels), ("store", store)):
            self._check_origin(name, getattr(self.manifest, name), given)
        self.index: IntArray = np.concatenate([index for index, _ in shards])
        self._sources = [sources for _, sources in shards]
        self._starts = np.cumsum([0, *(len(index) for index, _ in shards)])
        self._order = np.argsort(self.index)
        self._maps: dict[str, list[NDArray[Any]]] = {}

    def _check_present(self) -> None:
        if not self.path.is_file():
            part = self.path.with_name(f"{self.path.name}.part")
            if part.exists():
                raise CacheError(
                    f"{self.path}: not finished ({part.name} is there): run the same `alan cache` again"
                )
            raise CacheError(f"{self.path}: no such feature cache; write it with `alan cache`")

    def _check_origin(self, name: str, wanted: str, given: Fingerprinted | None) -> None:
        if given is not None and given.fingerprint != wanted:
            raise CacheError(
                f"{self.path}: was written with {name} {short(wanted)}, given {name} {short(given.fingerprint)}: "
                f"give the {name} it was written with, or write it anew with `alan cache`"
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
        """What the cache holds: out of ``cls``, ``tokens``, ``sector``, ``logits``, ``maps``."""
        return tuple(sorted(self._sources[0]))

    def cls(self, index: ArrayLike) -> NDArray[np.float32]:
        """CLS features, (n, D) float32.

        Args:
            index: (n,) global frame indices of the store, any order, repeats allowed.

        Raises:
            CacheError: the cache holds no CLS features, or not those of a frame; the frame is named.
        """
        found: NDArray[np.float32] = self._read("cls", index)
        return found

    def tokens(self, index: ArrayLike) -> NDArray[np.float16]:
        """Patch tokens, (n, h, w, D) float16 as stored; arguments and errors as :meth:`cls`."""
        found: NDArray[np.float16] = self._read("tokens", index)
        return found

    def sector(self, index: ArrayLike) -> BoolArray:
        """Which tokens see the sector, (n, h, w) bool, stored with the tokens; otherwise as :meth:`cls`."""
        found: BoolArray = self._read("sector", index)
        return found

    def logits(self, index: ArrayLike) -> NDArray[np.float16]:
        """Parcel logits, (n, K, h, w) float16; arguments and errors as :meth:`cls`."""
        found: NDArray[np.float16] = self._read("logits", index)
        return found

    def maps(self, index: ArrayLike) -> ByteArray:
        """Parcel maps, (n, H, W) uint8 at the size of the store; arguments and errors as :meth:`cls`."""
        found: ByteArray = self._read("maps", index)
        return found

    def missing(self, index: ArrayLike) -> IntArray:
        """Those of the global frame indices that the cache does not hold, (m,) int64 in the order given."""
        wanted = np.asarray(index, np.int64)
        return wanted[~np.isin(wanted, self.index)]

    def _rows(self, index: ArrayLike) -> IntArray:
        """Rows of global frame indices, counted over all shards."""
        wanted = np.asarray(index)
        if wanted.ndim != 1 or (wanted.size and wanted.dtype.kind not in "iu"):
            raise CacheError(f"{self.path}: index must be whole numbers (n,), got {wanted.dtype} {wanted.shape}")
        wanted = wanted.astype(np.int64)
        sorted_index = self.index[self._order]
        place = np.minimum(np.searchsorted(sorted_index, wanted), len(sorted_index) - 1)
        absent = wanted[sorted_index[place] != wanted]
        if len(absent):
            more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
            chosen = ", ".join(f"{k} {v}" for k, v in self.manifest.settings.items() if k in _SELECTION)
            raise CacheError(
                f"{self.path}: frame {absent[0]}{more} is not in the cache, which holds {len(self)} frames "
                f"({chosen}): write one that takes it in"
            )
        return self._order[place]

    def _read(self, name: str, index: ArrayLike) -> Any:
        if name not in self._sources[0]:
            raise CacheError(
                f"{self.path}: holds no {name}, only {', '.join(self.names)}: write it anew with {name} in `what`"
            )
        rows = self._rows(index)
        if name not in self._maps:
            self._maps[name] = [_map(sources[name]) for sources in self._sources]
        shards = self._maps[name]
        if len(shards) == 1:
            return np.asarray(shards[0][rows])
        out = np.empty((len(rows), *shards[0].shape[1:]), shards[0].dtype)
        of_shard = np.searchsorted(self._starts, rows, side="right") - 1
        for number, data in enumerate(shards):
            mine = of_shard == number
            out[mine] = data[rows[mine] - self._starts[number]]
        return out


_SELECTION = ("split", "views", "frames")
_DATA = ("cls", "tokens", "sector", "logits", "maps")


def _open(path: Path) -> tuple[Manifest, list[tuple[IntArray, dict[str, _Source]]]]:
    """Manifest, and for each shard its index and the places of its datasets."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            manifest = Manifest.read(file.attrs, str(path))
            names = [str(name) for name in file.attrs.get("shards", ())]
            if not names:
                return manifest, [_tables(path, file)]
        return manifest, [_shard(path.with_name(name), manifest) for name in names]
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise CacheError(
            f"{path}: not a whole feature cache ({reason}); write it again with `alan cache`"
        ) from error


def _shard(path: Path, manifest: Manifest) -> tuple[IntArray, dict[str, _Source]]:
    if not path.is_file():
        raise CacheError(f"{path}: this shard of the cache is missing: put it back, or write the cache again")
    with h5py.File(path, "r", locking=False) as file:
        words = Manifest.read(file.attrs, str(path)).differences(manifest)
        if words:
            raise CacheError(f"{path}: belongs to another cache ({'; '.join(words)}): write the cache again")
        return _tables(path, file)


def _tables(path: Path, file: Any) -> tuple[IntArray, dict[str, _Source]]:
    if not file["done"][:].all():
        raise CacheError(f"{path}: not all frames are written: run the same `alan cache` again")
    return file["index"][:], {name: (path, place) for name, place in places(file).items() if name in _DATA}


def _map(source: _Source) -> NDArray[Any]:
    path, (offset, shape, dtype) = source
    if 0 in shape:
        return np.empty(shape, dtype)
    try:
        return np.memmap(path, dtype, "r", offset, shape)
    except (OSError, ValueError) as error:
        raise CacheError(f"{path}: cannot be read ({error}); write it again with `alan cache`") from error
