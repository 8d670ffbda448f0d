"""Shared by the trainings of token heads: locked backbone, statistics, random numbers, checkpoints, export."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, NamedTuple

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from tqdm import tqdm

from alan.backbone.load import load_backbone
from alan.backbone.locked import Backbone
from alan.errors import CheckpointError, ParameterError
from alan.parcels.heads import TokenHead
from alan.parcels.memory import TokenMemory
from alan.parcels.model import ENTRY, ParcelModel, check_backbone, parcel_entry, save_parcels
from alan.parcels.usage import collapse_verdict, parcel_usage
from alan.seeding import step_generator

_log = logging.getLogger(__name__)
#: Batches before a collapse is spoken of: the first steps say nothing yet.
_GRACE = 50
_CPU = torch.device("cpu")


class TokenBatch(NamedTuple):
    """Tokens (B, F, T, D) float32 and, with ``sector_only``, weights (B, F, T) float32."""

    tokens: Tensor
    weights: Tensor | None


class HeadModule(LightningModule):
    """Base of the trainings of a token head over a locked backbone.

    A batch holds ``frames`` (B, F, S, S) uint8 and ``index`` (B, F) int64, the number of each frame, or instead
    ``tokens`` (B, F, h, w, D) and, with ``sector_only``, ``sector`` (B, F, h, w) bool. All random numbers (initial
    weights, pairs, dropout) follow from the seed, the number of the batch and the rank, and the global generators
    are left alone. The checkpoint holds the head and the fingerprint of the backbone, not the backbone.

    A child sets :attr:`head` in its constructor, and gives :meth:`terms` and ``configure_optimizers``.

    Attributes:
        method: name of the method, for messages.
        head: what is trained.

    Args:
        backbone: path or name, as :func:`alan.backbone.load_backbone` takes it.
        sector_only: leave the tokens outside the ultrasound sector out of the loss and the statistics; in parcel
            maps the outside becomes background.
        standardise: standardise tokens per channel, by mean and standard deviation over the first
            ``statistics_batches`` batches of the training data, taken once before the first step.
        statistics_batches: batches for that.
        input_size: side in pixels to which the backbone resizes frames; None: its training size.
        stride: step of the backbone's patches; None: the patch size.
        cache_features: keep tokens in memory as float16, so that a frame seen before costs the head alone. A
            resumed run then equals the uninterrupted one up to rounding, not bit by bit.
        cache_gb: room for that, in GB.
        seed: of all random numbers.

    Raises:
        CheckpointError: the backbone cannot be loaded.
        ParameterError: a value is out of range.
    """

    export_name = "parcels.safetensors"
    method: ClassVar[str]
    head: TokenHead

    def __init__(
        self,
        backbone: str,
        *,
        sector_only: bool,
        standardise: bool,
        statistics_batches: int,
        input_size: int | None,
        stride: int | None,
        cache_features: bool,
        cache_gb: float,
        seed: int,
    ) -> None:
        super().__init__()
        if statistics_batches < 1 or cache_gb <= 0:
            raise ParameterError(
                f"statistics_batches is {statistics_batches}, cache_gb {cache_gb}: they must be above 0; "
                "standardise: false and cache_features: false switch them off"
            )
        self.seed, self.sector_only = seed, sector_only
        self.statistics_batches = statistics_batches
        # in a tuple, so that it is no submodule: neither trained, nor saved, nor put into train mode
        self._locked = (load_backbone(backbone, input_size=input_size, stride=stride),)
        self.source = backbone
        self._memory = TokenMemory(cache_gb if cache_features else 0.0)
        self._batches = 0  # batches seen: the random numbers of a step hang on it
        self._needs_statistics = standardise
        self._warned = False

    @property
    def backbone(self) -> Backbone:
        """The locked backbone."""
        return self._locked[0]

    def terms(self, batch: TokenBatch) -> dict[str, Tensor]:
        """Compute the loss of a batch: its parts by name, and ``total``."""
        raise NotImplementedError

    def initial(self) -> torch.Generator:
        """Give the generator of the initial weights."""
        return step_generator(_CPU, self.seed, 0)

    def generator(self) -> torch.Generator:
        """Give the generator of this batch, on the CPU: a function of seed, number of the batch and rank."""
        return step_generator(_CPU, self.seed, self._batches, self.global_rank)

    @contextlib.contextmanager
    def own_dropout(self) -> Iterator[None]:
        """Let dropout in the block draw from this batch's numbers, and put the global generators back."""
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(step_generator(_CPU, self.seed, self._batches, self.global_rank, 1).initial_seed())
            yield

    def on_train_start(self) -> None:
        """Take the statistics of the features, unless a checkpoint brought them.

        Raises:
            CheckpointError: the data module reads tokens from the cache of another backbone.
        """
        self.backbone.to(self.device)
        trainer: Any = self.trainer
        cache = getattr(trainer.datamodule, "cache", None)  # of alan.cache.sequences
        if cache is not None:
            check_backbone("the parcels", self.backbone.fingerprint, self.source, cache.manifest.backbone)
        if self._needs_statistics:
            fresh = trainer.datamodule is not None  # a loader of its own leaves the place of the other alone
            self._take_statistics(trainer.datamodule.train_dataloader() if fresh else trainer.train_dataloader)
            self._needs_statistics = False

    @torch.no_grad()
    def _take_statistics(self, batches: Iterable[dict[str, Tensor]]) -> None:
        dim = self.backbone.dim
        sums = torch.zeros(2 * dim + 1, dtype=torch.float64)  # number, sums, sums of squares
        bar = tqdm(total=self.statistics_batches, desc="feature statistics", leave=False)
        for _, batch in zip(range(self.statistics_batches), batches, strict=False):
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
        """Tokens and weights of a batch, from its frames or as it brings them."""
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
            raise ParameterError("sector_only is set and the batch brings tokens without their sector")
        return TokenBatch(tokens.flatten(2, 3), sector.flatten(2).float())

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """One batch of sequences; returns the loss.

        Args:
            batch: see the class.
            batch_idx: unused; the module counts its own batches across restarts.

        Raises:
            ParameterError: a single sequence in the batch, or a loss that is not finite.
        """
        self._batches += 1
        tokens = self._read(batch)
        terms = self.terms(tokens)
        loss = terms.pop("total")
        if not torch.isfinite(loss):
            raise ParameterError(f"the loss is {loss.item()} at step {self.global_step}: lower lr, or use 32-true")
        self.log("loss", loss, prog_bar=True)
        self.log_dict({f"loss_{name}": term for name, term in terms.items()})
        self._monitor(*tokens)
        return loss

    @torch.no_grad()
    def _monitor(self, tokens: Tensor, weights: Tensor | None) -> None:
        """Log the parcels in use (without dropout) with the logger's rhythm; warn once when they collapse."""
        trainer: Any = self.trainer
        if self._batches % trainer.log_every_n_steps:
            return
        self.head.eval()
        ids = self.head(tokens).argmax(-1)
        self.head.train()
        usage = parcel_usage(ids if weights is None else ids[weights > 0], self.head.n_parcels)
        self.log("parcels_in_use", float(usage.in_use), prog_bar=True)
        self.log("parcel_perplexity", usage.perplexity)
        verdict = collapse_verdict(usage, self.head.n_parcels)
        if verdict and not self._warned and self._batches > _GRACE:
            _log.warning("step %d: %s", self.global_step, verdict)
            self._warned = True

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what :func:`alan.parcels.load_parcels` and a resumed run need to know."""
        entry = parcel_entry(self.head, self.backbone, self.source, None, sector_only=self.sector_only)
        state = {"batches": self._batches, "needs_statistics": self._needs_statistics}
        checkpoint[ENTRY] = {**entry, **state}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the training up again.

        Raises:
            CheckpointError: not a checkpoint of this module, or one of another backbone or another head.
        """
        entry = checkpoint.get(ENTRY, {})
        if "batches" not in entry:
            raise CheckpointError(
                f"the checkpoint is not one of a {self.method} training: give the last.ckpt of this run"
            )
        origin = entry["backbone"]
        check_backbone("the checkpoint", origin["fingerprint"], origin["source"], self.backbone.fingerprint)
        if entry["head"] != self.head.settings():
            raise CheckpointError(f"the checkpoint's head is {entry['head']}, the config's {self.head.settings()}")
        self._batches, self._needs_statistics = entry["batches"], entry["needs_statistics"]

    def parcels(self) -> ParcelModel:
        """The parcel model as trained so far; its head is a copy, the backbone is shared."""
        head = copy.deepcopy(self.head)
        model = ParcelModel(self.backbone, head, sector_only=self.sector_only, source=self.source)
        return model.to(self.head.mean.device)

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write the parcel model, see :func:`alan.parcels.save_parcels`."""
        save_parcels(self.parcels(), path)
