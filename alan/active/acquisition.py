"""Acquisition functions: how much the passes of a stochastic network leave open, image by image.

Each is a sum over the pixels of an image (EDNAS, section III-C; Gal et al., *Deep Bayesian Active Learning with
Image Data*, 2017). They come twice: as pure functions of all passes at once, which say what is meant, and as
:class:`RunningAcquisition`, which takes one pass after the other in memory that does not grow with them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alan.errors import ParameterError, nearest


def _two_classes(probabilities: Tensor) -> Tensor:
    """Probabilities (..., C, H, W) with the background first where C is 1."""
    if probabilities.shape[-3] > 1:
        return probabilities
    return torch.cat([1 - probabilities, probabilities], -3)


def _entropy(probabilities: Tensor) -> Tensor:
    """Entropy in nats over the classes: (..., C, H, W) to (..., H, W); 0 log 0 is 0."""
    entropy: Tensor = torch.special.entr(probabilities).sum(-3)
    return entropy


def _checked(probabilities: Tensor) -> Tensor:
    if probabilities.ndim != 5 or not probabilities.is_floating_point():
        raise ParameterError(
            f"probabilities are {probabilities.dtype} {tuple(probabilities.shape)}: give floats (T, N, C, H, W)"
        )
    check_passes(len(probabilities))
    return _two_classes(probabilities)


def check_passes(passes: int) -> None:
    """Refuse fewer than two passes.

    Raises:
        ParameterError: one pass has no spread; the message says how many are usual.
    """
    if passes < 2:
        raise ParameterError(f"passes={passes}: one pass has no spread; give 2 or more (30 is usual)")


def cfe(probabilities: Tensor) -> Tensor:
    """Category first entropy: mean over the passes of the entropy, summed over pixels (EDNAS, eq. 4).

    Args:
        probabilities: (T, N, C, H, W) float in 0..1, T at least 2; C is 1 for a binary network.

    Returns:
        (N,) in nats, at least 0.

    Raises:
        ParameterError: another shape or dtype, or T below 2.
    """
    return _entropy(_checked(probabilities)).mean(0).sum((-2, -1))


def mfe(probabilities: Tensor) -> Tensor:
    """Mean first entropy: entropy of the mean over the passes, summed over pixels (EDNAS, eq. 5).

    Arguments, result and errors are those of :func:`cfe`.
    """
    return _entropy(_checked(probabilities).mean(0)).sum((-2, -1))


def mi(probabilities: Tensor) -> Tensor:
    """Mutual information of label and weights: the absolute value of MFE - CFE of each pixel, summed (BALD).

    Arguments, result and errors are those of :func:`cfe`.
    """
    p = _checked(probabilities)
    return (_entropy(p.mean(0)) - _entropy(p).mean(0)).abs().sum((-2, -1))


def std(probabilities: Tensor) -> Tensor:
    """Standard deviation over the passes (divided by T), its mean over the classes, summed over pixels.

    For two classes it is that of either. Arguments, result and errors are those of :func:`cfe`.
    """
    return _checked(probabilities).std(0, correction=0).mean(-3).sum((-2, -1))


def random(n: int, seed: int | Sequence[int]) -> NDArray[np.float64]:
    """A uniform number for each image: the first n of the seed's row, whatever n is.

    Args:
        n: number of images.
        seed: one or more integers, 0 or more.

    Returns:
        (n,) float64 in 0..1.
    """
    return np.random.default_rng(seed).random(n)


#: Functions of the probabilities, by the names that configurations use.
UNCERTAINTIES: dict[str, Callable[[Tensor], Tensor]] = {"cfe": cfe, "mfe": mfe, "mi": mi, "std": std}
#: The baseline, which asks no network.
RANDOM = "random"
#: All acquisition functions.
FUNCTIONS = (*UNCERTAINTIES, RANDOM)


def check_functions(functions: Sequence[str]) -> tuple[str, ...]:
    """Refuse unknown and repeated acquisition functions.

    Raises:
        ParameterError: none is given, one is unknown (the nearest is offered), or one is given twice.
    """
    for name in functions:
        if name not in FUNCTIONS:
            raise ParameterError(f"unknown acquisition function {name!r}: {nearest(name, FUNCTIONS)}")
    if not functions or len(set(functions)) < len(functions):
        raise ParameterError(f"functions={list(functions)}: give at least one, each once")
    return tuple(functions)


class RunningAcquisition:
    """The same functions by running sums: one pass of a batch of images after the other.

    It keeps a few images' worth of numbers however many passes come, and agrees with the pure functions to float32
    rounding. Mean and squared deviations follow Welford's recurrence.
    """

    def __init__(self) -> None:
        self.passes = 0
        self._mean = self._squares = self._entropies = torch.zeros(())

    def add(self, probabilities: Tensor) -> None:
        """Take one pass.

        Args:
            probabilities: (N, C, H, W) float in 0..1.

        Raises:
            ParameterError: another shape than the pass before.
        """
        p = _two_classes(probabilities)
        if self.passes and p.shape != self._mean.shape:
            raise ParameterError(
                f"a pass of shape {tuple(p.shape)} after one of {tuple(self._mean.shape)}: add the same images"
            )
        if not self.passes:
            self._mean, self._squares = torch.zeros_like(p), torch.zeros_like(p)
            self._entropies = torch.zeros_like(p[..., 0, :, :])
        self.passes += 1
        away = p - self._mean
        self._mean += away / self.passes
        self._squares += away * (p - self._mean)
        self._entropies += _entropy(p)

    @property
    def mean(self) -> Tensor:
        """Mean probabilities (N, max(C, 2), H, W) so far, the background first."""
        return self._mean

    def maps(self, name: str) -> Tensor:
        """A function pixel by pixel, (N, H, W).

        Args:
            name: a name out of :data:`UNCERTAINTIES`.

        Raises:
            ParameterError: the name is unknown, or fewer than two passes were added.
        """
        if name not in UNCERTAINTIES:
            raise ParameterError(f"no map of {name!r}: {nearest(name, UNCERTAINTIES)}")
        check_passes(self.passes)
        if name == "std":
            return (self._squares / self.passes).clamp(min=0).sqrt().mean(-3)
        if name == "cfe":
            return self._entropies / self.passes
        total = _entropy(self._mean)
        return total if name == "mfe" else (total - self._entropies / self.passes).abs()

    def scores(self, name: str) -> Tensor:
        """A function summed over pixels, (N,) float64; errors as :meth:`maps`."""
        return self.maps(name).double().sum((-2, -1))
