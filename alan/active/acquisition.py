"""Acquisition functions: how uncertain a stochastic network is about each image.

Each function is a map over pixels of the statistics of all passes, and its score is the sum of the map over the
pixels of an image (EDNAS, section III-C; Gal et al., *Deep Bayesian Active Learning with Image Data*, 2017). To
add one, write its map here under :func:`acquisition`: configurations, loops and reports find it by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alan.active.settings import COVERAGE, DISAGREEMENT, K_CENTRE, RANDOM
from alan.errors import ParameterError, nearest


class PassStatistics:
    """Statistics of stochastic passes over a batch of images, in memory that does not grow with their number.

    Mean and squared deviations follow Welford's recurrence.

    Attributes:
        passes: Number of passes added.
        mean: Mean probabilities (N, max(C, 2), H, W), the background first.
    """

    def __init__(self) -> None:
        self.passes = 0
        self.mean = self._squares = self._entropies = torch.zeros(())

    def add(self, probabilities: Tensor) -> None:
        """Add one pass.

        Args:
            probabilities: (N, C, H, W) float in 0..1; C is 1 for a binary network.

        Raises:
            ParameterError: The shape differs from that of the pass before, or the probabilities are no floats.
        """
        if probabilities.ndim != 4 or not probabilities.is_floating_point():
            raise ParameterError(
                f"probabilities are {probabilities.dtype} {tuple(probabilities.shape)}: give floats (N, C, H, W)"
            )
        p = torch.cat([1 - probabilities, probabilities], 1) if probabilities.shape[1] == 1 else probabilities
        if self.passes and p.shape != self.mean.shape:
            raise ParameterError(
                f"a pass of shape {tuple(p.shape)} follows one of {tuple(self.mean.shape)}: add the same images"
            )
        if not self.passes:
            self.mean, self._squares = torch.zeros_like(p), torch.zeros_like(p)
            self._entropies = torch.zeros_like(p[:, 0])
        self.passes += 1
        deviation = p - self.mean
        self.mean += deviation / self.passes
        self._squares += deviation * (p - self.mean)
        self._entropies += entropy(p)

    @property
    def mean_entropy(self) -> Tensor:
        """Mean over the passes of the entropy, (N, H, W) in nats."""
        return self._entropies / self.passes

    @property
    def deviation(self) -> Tensor:
        """Standard deviation over the passes (divided by their number), (N, max(C, 2), H, W)."""
        return (self._squares / self.passes).clamp(min=0).sqrt()

    def map(self, name: str) -> Tensor:
        """Compute an acquisition function at each pixel, (N, H, W).

        Args:
            name: Name of a function that uses the network.

        Raises:
            ParameterError: The name is unknown, or fewer than two passes were added.
        """
        function = ACQUISITIONS[name].map if name in ACQUISITIONS else None
        if function is None:
            raise ParameterError(f"no map of {name!r}: {nearest(name, UNCERTAINTIES)}")
        if self.passes < 2:
            raise ParameterError(f"passes is {self.passes}: add at least 2 (30 is usual)")
        return function(self)

    def scores(self, name: str) -> Tensor:
        """Sum :meth:`map` over the pixels of each image, (N,) float64."""
        return self.map(name).double().sum((-2, -1))


class AcquisitionFunction(NamedTuple):
    """An acquisition function.

    Attributes:
        title: Name in reports.
        map: Map (N, H, W) of the statistics of the passes; None for functions that use no network.
    """

    title: str
    map: Callable[[PassStatistics], Tensor] | None = None


#: All acquisition functions by the names that configurations use.
ACQUISITIONS: dict[str, AcquisitionFunction] = {}


def acquisition(title: str) -> Callable[[Callable[[PassStatistics], Tensor]], Callable[[PassStatistics], Tensor]]:
    """Register a map as the acquisition function of its name.

    Args:
        title: Name in reports.
    """

    def register(function: Callable[[PassStatistics], Tensor]) -> Callable[[PassStatistics], Tensor]:
        ACQUISITIONS[function.__name__] = AcquisitionFunction(title, function)
        return function

    return register


@acquisition("category first entropy (CFE)")
def cfe(passes: PassStatistics) -> Tensor:
    """Compute the mean over the passes of the entropy, in nats (EDNAS, eq. 4)."""
    return passes.mean_entropy


@acquisition("mean first entropy (MFE)")
def mfe(passes: PassStatistics) -> Tensor:
    """Compute the entropy of the mean over the passes, in nats (EDNAS, eq. 5)."""
    return entropy(passes.mean)


@acquisition("mutual information (MI)")
def mi(passes: PassStatistics) -> Tensor:
    """Compute the mutual information of label and weights, the absolute value of MFE - CFE (BALD)."""
    return (mfe(passes) - cfe(passes)).abs()


@acquisition("standard deviation (STD)")
def std(passes: PassStatistics) -> Tensor:
    """Compute the standard deviation over the passes, averaged over the classes."""
    return passes.deviation.mean(1)


ACQUISITIONS[RANDOM] = AcquisitionFunction("Random")
ACQUISITIONS[COVERAGE] = AcquisitionFunction("parcel coverage")
ACQUISITIONS[DISAGREEMENT] = AcquisitionFunction("disagreement of white box and network")
ACQUISITIONS[K_CENTRE] = AcquisitionFunction("k-centre")
#: Names of the functions that use the network.
UNCERTAINTIES = tuple(name for name, function in ACQUISITIONS.items() if function.map is not None)


def entropy(probabilities: Tensor) -> Tensor:
    """Compute the entropy over the classes in nats, (N, C, H, W) to (N, H, W); 0 log 0 is 0."""
    found: Tensor = torch.special.entr(probabilities).sum(1)
    return found


def random(n: int, seed: int | Sequence[int]) -> NDArray[np.float64]:
    """Draw a uniform score for each image: the first n numbers of the seed's sequence.

    Args:
        n: Number of images.
        seed: One or more integers of at least 0.

    Returns:
        (n,) float64 in 0..1.
    """
    return np.random.default_rng(seed).random(n)


def check_functions(functions: Sequence[str]) -> tuple[str, ...]:
    """Refuse unknown and repeated acquisition functions.

    Raises:
        ParameterError: None is given, one is unknown (the nearest is offered), or one is given twice.
    """
    for name in functions:
        if name not in ACQUISITIONS:
            raise ParameterError(f"unknown acquisition function {name!r}: {nearest(name, ACQUISITIONS)}")
    if not functions or len(set(functions)) < len(functions):
        raise ParameterError(f"functions is {list(functions)}: give at least one, each once")
    return tuple(functions)
