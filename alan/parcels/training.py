"""Base of the trainings of token heads: the locked backbone, its tokens and statistics, checkpoints, export."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from alan.backbone.base import Backbone
from alan.backbone.load import load_backbone
from alan.backbone.training import TrainingModule
from alan.bounds import PositiveFloat, PositiveInt, Seed, bounded
from alan.errors import CheckpointError, ParameterError
from alan.parcels.heads import TokenHead
from alan.parcels.model import ENTRY, ParcelModel, check_backbone, parcel_entry, save_parcels
from alan.parcels.usage import parcel_collapse, parcel_usage
from alan.seeding import step_generator

_log = logging.getLogger(__name__)
#: Number of batches before a warning about a collapse: parcels form in the first steps.
_GRACE = 50


class FrameTokens(NamedTuple):
    """Tokens of N frames.

    Attributes:
        tokens: (N, h, w, D) float32.
        sector: (N, h, w) bool, tokens inside the ultrasound sector.
    """

    tokens: Tensor
    sector: Tensor


class TokenMemory:
    """Tokens by frame number, kept in memory.

    If tokens are kept, all of them are rounded to float16, new ones included, so that the tokens of a frame do not
    depend on when they were computed.

    Args:
        room_gb: Largest size of the memory in GB (1e9 bytes); tokens that do not fit are recomputed each time. 0
            disables the memory.
        batch_size: Number of frames that go through the backbone at a time.
    """

    def __init__(self, room_gb: float = 0.0, batch_size: int = 64) -> None:
        self.room = room_gb * 1e9
        self.batch_size = batch_size
        self.used = 0
        self._kept: dict[int, FrameTokens] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def __call__(self, backbone: Backbone, frames: Tensor, index: Tensor) -> FrameTokens:
        """Return the tokens of frames, from memory if possible.

        Args:
            backbone: The backbone, the same one in every call.
            frames: (N, S, S) uint8.
            index: (N,) integer numbers of the frames; equal numbers mean equal frames.

        Returns:
            Tokens on the device of the backbone.
        """
        if not self.room:
            return self._compute(backbone, frames)
        numbers: list[int] = index.tolist()
        known = {number: self._kept[number] for number in numbers if number in self._kept}
        missing = {number: place for place, number in enumerate(numbers) if number not in known}
        if missing:
            fresh = self._compute(backbone, frames[list(missing.values())])
            tokens, sector = fresh.tokens.half().cpu(), fresh.sector.cpu()
            for row, number in enumerate(missing):
                known[number] = FrameTokens(tokens[row].clone(), sector[row].clone())
                size = known[number].tokens.nbytes + known[number].sector.nbytes
                if self.used + size <= self.room:
                    self._kept[number] = known[number]
                    self.used += size
        device = backbone.device
        rows = [known[number] for number in numbers]
        return FrameTokens(
            torch.stack([row.tokens for row in rows]).to(device).float(),
            torch.stack([row.sector for row in rows]).to(device),
        )

    def _compute(self, backbone: Backbone, frames: Tensor) -> FrameTokens:
        parts = frames.split(self.batch_size)  # type: ignore[no-untyped-call]
        tokens = torch.cat([backbone(part).tokens for part in parts])
        return FrameTokens(tokens, torch.cat([backbone.sector(part) for part in parts]))


class TokenBatch(NamedTuple):
    """Tokens (B, F, T, D) float32 and, with ``sector_only``, weights (B, F, T) float32."""

    tokens: Tensor
    weights: Tensor | None


class HeadModule(TrainingModule):
    """Base of the trainings of a token head over a locked backbone.

    A batch holds ``frames`` (B, F, S, S) uint8 and ``index`` (B, F) int64, the number of each frame; or it holds
    ``tokens`` (B, F, h, w, D) and, with ``sector_only``, ``sector`` (B, F, h, w) bool. The checkpoint holds the
    head and the fingerprint of the backbone, not the backbone.

    A subclass sets :attr:`head` in its constructor, and implements :meth:`terms` and ``configure_optimizers``.

    Attributes:
        head: The head that is trained.

    Args:
        backbone: Path or name of the backbone, as :func:`alan.backbone.load_backbone` takes it.
        sector_only: Whether to leave tokens outside the ultrasound sector out of the loss and the statistics; in
            parcel maps they become background.
        standardise: Whether tokens are standardised per channel, by mean and standard deviation over the first
            ``statistics_batches`` batches of the training data, computed once before the first step.
        statistics_batches: Number of batches for the standardisation.
        input_size: Side in pixels to which the backbone resizes frames; null uses its training size.
        stride: Distance between two tokens in pixels; null uses the default of the backbone.
        cache_features: Whether tokens are kept in memory as float16, so that a frame seen before costs the head
            alone. A resumed run then equals the uninterrupted one up to rounding, not bit by bit.
        cache_gb: Memory for the kept tokens, in GB.
        seed: Seed of all random numbers: initial weights, pairs of frames and dropout.

    Raises:
        CheckpointError: The backbone cannot be loaded.
        ParameterError: A value is out of range.
    """

    entry_key = ENTRY
    export_name = "parcels.safetensors"
    head: TokenHead

    @bounded
    def __init__(
        self,
        backbone: str,
        *,
        sector_only: bool = False,
        standardise: bool = True,
        statistics_batches: PositiveInt = 20,
        input_size: PositiveInt | None = None,
        stride: PositiveInt | None = None,
        cache_features: bool = False,
        cache_gb: PositiveFloat = 2.0,
        seed: Seed = 0,
    ) -> None:
        super().__init__(seed)
        self.sector_only = sector_only
        self.statistics_batches = statistics_batches
        # in a tuple, so that it is not a submodule: neither trained, nor saved, nor put into train mode
        self._locked = (load_backbone(backbone, input_size=input_size, stride=stride),)
        self.source = backbone
        self._memory = TokenMemory(cache_gb if cache_features else 0.0)
        self._needs_statistics = standardise
        self._warned = False

    @property
    def backbone(self) -> Backbone:
        """The locked backbone."""
        return self._locked[0]

    def terms(self, batch: TokenBatch) -> dict[str, Tensor]:
        """Compute the loss of a batch: its terms by name, and ``total``."""
        raise NotImplementedError

    def initial(self) -> torch.Generator:
        """Make the generator of the initial weights."""
        return step_generator("cpu", self.seed, 0)

    def key(self, *extra: int) -> tuple[int, ...]:
        """Identify the random numbers of the current batch; the number 0 is that of the initial weights."""
        seed, number, *rest = super().key(*extra)
        return seed, number + 1, *rest

    def on_train_start(self) -> None:
        """Compute the statistics of the features, unless a checkpoint brought them.

        Raises:
            CheckpointError: The data module reads tokens from the cache of another backbone.
        """
        self.backbone.to(self.device)
        trainer: Any = self.trainer
        cache = getattr(trainer.datamodule, "cache", None)  # set by alan.cache.sequences
        if cache is not None:
            check_backbone("the parcels", self.backbone.fingerprint, self.source, cache.manifest.backbone)
        if self._needs_statistics:
            fresh = trainer.datamodule is not None  # a second loader, so that the first keeps its position
            self._compute_statistics(trainer.datamodule.train_dataloader() if fresh else trainer.train_dataloader)
            self._needs_statistics = False

    @torch.no_grad()
    def _compute_statistics(self, batches: Iterable[dict[str, Tensor]]) -> None:
        dim = self.backbone.dim
        sums = torch.zeros(2 * dim + 1, dtype=torch.float64)  # number, sums, sums of squares
        share = -(-self.statistics_batches // self.trainer.world_size)
        bar = tqdm(total=share, desc="feature statistics", leave=False)
        for _, batch in zip(range(share), batches, strict=False):
            tokens, weights = self._read({name: value.to(self.device) for name, value in batch.items()})
            rows = tokens.flatten(0, 2) if weights is None else tokens[weights > 0]
            if len(rows):
                variance, mean = (x.cpu().double() for x in torch.var_mean(rows, 0, correction=0))
                sums += len(rows) * torch.cat([torch.ones(1), mean, variance + mean.square()])
            bar.update()
        bar.close()
        total: Any = self.trainer.strategy.reduce(sums.to(self.device), reduce_op="sum")
        number, mean, square = total.cpu().split([1, dim, dim])
        if not number:
            raise ParameterError("no token lies inside the sector of the first batches: set sector_only to false")
        mean, square = mean / number, square / number
        self.head.set_statistics(mean, (square - mean.square()).clamp(min=0).sqrt())

    @torch.no_grad()
    def _read(self, batch: dict[str, Tensor]) -> TokenBatch:
        """Compute the tokens and weights of a batch, or take those it brings."""
        sector: Tensor | None
        if "tokens" in batch:
            tokens, sector = batch["tokens"].float(), batch.get("sector")
        elif "frames" in batch:
            frames = batch["frames"]
            flat = self._memory(self.backbone, frames.flatten(0, 1), batch["index"].flatten())
            tokens, sector = (x.reshape(*frames.shape[:2], *x.shape[1:]) for x in flat)
        else:
            raise ParameterError(f"the batch holds {sorted(batch)}: frames and index, or tokens, are needed")
        if not self.sector_only:
            return TokenBatch(tokens.flatten(2, 3), None)
        if sector is None:
            raise ParameterError("sector_only is set and the batch has tokens without their sector")
        return TokenBatch(tokens.flatten(2, 3), sector.flatten(2).float())

    def compute_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Compute the loss of a batch of sequences and log its terms."""
        tokens = self._read(batch)
        terms = self.terms(tokens)
        loss = terms.pop("total")
        self.log_dict({f"loss_{name}": term for name, term in terms.items()})
        self._monitor(*tokens)
        return loss

    @torch.no_grad()
    def _monitor(self, tokens: Tensor, weights: Tensor | None) -> None:
        """Log the parcels in use (without dropout) as often as the trainer logs; warn once when they collapse."""
        trainer: Any = self.trainer
        batches = self._batches + 1
        if batches % trainer.log_every_n_steps:
            return
        self.head.eval()
        ids = self.head(tokens).argmax(-1)
        self.head.train()
        usage = parcel_usage(ids if weights is None else ids[weights > 0], self.head.n_parcels)
        self.log("parcels_in_use", float(usage.in_use), prog_bar=True)
        self.log("parcel_perplexity", usage.perplexity)
        verdict = parcel_collapse(usage, self.head.n_parcels)
        if verdict and not self._warned and batches > _GRACE:
            _log.warning("step %d: %s", self.global_step, verdict)
            self._warned = True

    def checkpoint_entry(self) -> dict[str, Any]:
        """Return what :func:`alan.parcels.load_parcels` and a resumed run need to know."""
        entry = parcel_entry(self.head, self.backbone, self.source, None, sector_only=self.sector_only)
        return {**entry, "needs_statistics": self._needs_statistics}

    def check_entry(self, entry: Mapping[str, Any]) -> None:
        """Refuse a checkpoint of another backbone or another head.

        Raises:
            CheckpointError: It is of another one.
        """
        origin = entry["backbone"]
        check_backbone("the checkpoint", origin["fingerprint"], origin["source"], self.backbone.fingerprint)
        if entry["head"] != self.head.settings():
            raise CheckpointError(f"the checkpoint's head is {entry['head']}, the config's {self.head.settings()}")
        self._needs_statistics = entry["needs_statistics"]

    def parcels(self) -> ParcelModel:
        """Build the parcel model as trained so far; its head is a copy, the backbone is shared."""
        head = copy.deepcopy(self.head)
        model = ParcelModel(self.backbone, head, sector_only=self.sector_only, source=self.source)
        return model.to(self.head.mean.device)

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write the parcel model, see :func:`alan.parcels.save_parcels`."""
        save_parcels(self.parcels(), path)
