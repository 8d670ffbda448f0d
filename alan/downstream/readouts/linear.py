"""Linear read-out of frozen tokens: multinomial logistic regression on class shares."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from torch import Tensor

from alan.downstream.readouts.base import TokenReadout, class_shares, token_statistics
from alan.errors import ParameterError


class LinearReadout(TokenReadout):
    """Name the class of every pixel by a linear function of its token.

    Minimises the mean cross-entropy between a token's predicted classes and the shares that the classes have in
    its cell of the label map, plus ``l2 / 2`` times the squared weights (not the intercepts), by full-batch
    L-BFGS from zero: no random start, no step size. With one class a cell it is scikit-learn's
    ``LogisticRegression(C=1 / (l2 * n_tokens))`` on standardised tokens. Parcels' soft scores (N, h, w, K) are
    tokens, too.

    Args:
        l2: weight of the penalty on standardised features.
        max_tokens: tokens used at most, drawn by ``seed`` from all frames alike: neighbours tell the same; None
            uses all of them. Mean and standard deviation always come from all of them.
        max_iter: L-BFGS iterations at most.
        tol: stop where no component of the gradient is larger.
        n_classes: C, the background included; None takes the highest label in ``fit``, plus 1.
        size: (height, width) of predicted label maps; None takes that of ``fit``.
        seed: of the tokens drawn.
        provenance: fingerprint of the model that made the tokens.

    Attributes:
        coef_: (C, D) float32, weights of standardised features.
        intercept_: (C,) float32.
        mean_: (D,) float32, subtracted from the tokens.
        std_: (D,) float32, by which they are divided.
        n_iter_: iterations taken.
        loss_: value reached, penalty included.
    """

    coef_: NDArray[np.float32]
    intercept_: NDArray[np.float32]
    mean_: NDArray[np.float32]
    std_: NDArray[np.float32]

    def __init__(
        self,
        l2: float = 1e-3,
        *,
        max_tokens: int | None = 200_000,
        max_iter: int = 200,
        tol: float = 1e-5,
        n_classes: int | None = None,
        size: tuple[int, int] | None = None,
        seed: int = 0,
        provenance: str = "",
    ) -> None:
        self.l2 = l2
        self.max_tokens = max_tokens
        self.max_iter = max_iter
        self.tol = tol
        self.n_classes = n_classes
        self.size = size
        self.seed = seed
        self.provenance = provenance

    def _check(self) -> None:
        if not (math.isfinite(self.l2) and self.l2 >= 0) or self.tol <= 0:
            raise ParameterError(f"l2 is {self.l2}, tol {self.tol}; give 0 or more, and more than 0")
        for name in ("max_iter", "max_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ParameterError(f"{name} is {value}; give 1 or more")

    def fit(self, tokens: ArrayLike, label_maps: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Learn the weights, see :meth:`TokenReadout.fit`."""
        values, maps = self._begin(tokens, label_maps)
        self.mean_, self.std_ = token_statistics(values)
        shares = class_shares(maps, (values.shape[1], values.shape[2]), self.n_classes_)
        x, y = self._draw(values, shares)
        classes, dim = self.n_classes_, self.dim_

        def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            weights = torch.from_numpy(flat.reshape(classes, dim + 1)).float()
            log_p = torch.addmm(weights[:, -1], x, weights[:, :-1].T).log_softmax(1)
            value = -(y * log_p).sum(1).mean(dtype=torch.float64).item()
            error = (log_p.exp() - y) / len(x)
            slope = torch.cat([error.T @ x + self.l2 * weights[:, :-1], error.sum(0)[:, None]], 1)
            penalty = self.l2 / 2 * float(weights[:, :-1].double().square().sum())
            return value + penalty, slope.double().numpy().ravel()

        options: Any = {"maxiter": self.max_iter, "gtol": self.tol, "ftol": 1e-9, "maxcor": 20}
        found = minimize(loss, np.zeros(classes * (dim + 1)), jac=True, method="L-BFGS-B", options=options)
        weights = np.asarray(found.x, np.float32).reshape(classes, dim + 1)
        self.coef_, self.intercept_ = weights[:, :-1].copy(), weights[:, -1].copy()
        self.n_iter_, self.loss_ = int(found.nit), float(found.fun)
        return self

    def _draw(self, tokens: NDArray[Any], shares: Tensor) -> tuple[Tensor, Tensor]:
        """Standardised tokens (n, D) and shares (n, C), at most ``max_tokens`` of each frame's part."""
        cells = tokens.shape[1] * tokens.shape[2]
        keep = cells if self.max_tokens is None else min(cells, max(1, self.max_tokens // len(tokens)))
        rng = np.random.default_rng(self.seed)
        x, y = torch.empty(len(tokens) * keep, self.dim_), torch.empty(len(tokens) * keep, self.n_classes_)
        for n, (frame, share) in enumerate(zip(tokens, shares, strict=True)):
            chosen = np.arange(cells) if keep == cells else np.sort(rng.choice(cells, keep, replace=False))
            rows = np.asarray(frame).reshape(cells, -1)[chosen].astype(np.float32)
            part = slice(n * keep, (n + 1) * keep)
            x[part] = torch.from_numpy((rows - self.mean_) / self.std_)
            y[part] = share.reshape(cells, -1)[torch.from_numpy(chosen)]
        return x, y

    def _logits(self, tokens: Tensor) -> Tensor:
        scaled = (tokens - torch.from_numpy(self.mean_)) / torch.from_numpy(self.std_)
        logits = scaled @ torch.from_numpy(self.coef_).T + torch.from_numpy(self.intercept_)
        return logits.permute(0, 3, 1, 2)

    def _state(self) -> dict[str, Tensor]:
        names = ("coef_", "intercept_", "mean_", "std_")
        return {name.rstrip("_"): torch.from_numpy(getattr(self, name)) for name in names}

    def _set_state(self, state: dict[str, Tensor]) -> None:
        shapes = {"coef": (self.n_classes_, self.dim_), "intercept": (self.n_classes_,)}
        shapes |= {"mean": (self.dim_,), "std": (self.dim_,)}
        for name, shape in shapes.items():
            if tuple(state[name].shape) != shape:
                raise ValueError(f"{name} is {tuple(state[name].shape)}, expected {shape}")
            setattr(self, f"{name}_", state[name].numpy())
