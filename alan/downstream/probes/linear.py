"""Linear probe: multinomial logistic regression on frozen tokens."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, Self

import numpy as np
import torch
from annotated_types import Interval
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from torch import Tensor

from alan.bounds import PositiveFloat, PositiveInt, Seed
from alan.downstream.probes.base import ClassCount, MapSize, TokenProbe, class_shares, token_statistics


@dataclass(eq=False, repr=False)
class LinearProbe(TokenProbe):
    """Predict the class of every pixel with a linear function of its token.

    Minimises the mean cross-entropy between the predicted classes of a token and the shares of the classes in its
    cell of the label map, plus ``l2 / 2`` times the squared weights (without the intercepts), by full-batch L-BFGS
    from zero: there is neither a random start nor a step size. If every cell contains one class, the result is
    that of scikit-learn's ``LogisticRegression(C=1 / (l2 * n_tokens))`` on standardised tokens. Soft scores of
    parcels (N, h, w, K) can be used as tokens.

    Args:
        l2: Weight of the penalty on the weights of standardised features.
        max_tokens: Largest number of tokens used, drawn equally from all frames, since neighbouring tokens are
            alike; None uses all. Mean and standard deviation are always computed over all tokens.
        max_iter: Largest number of L-BFGS iterations.
        tol: The optimisation stops when no component of the gradient exceeds this value.
        n_classes: Number of classes, including the background; None uses the highest label in ``fit`` plus 1.
        size: (height, width) of the predicted label maps; None uses the size in ``fit``.
        seed: Seed of the draw of tokens.
        provenance: Fingerprint of the model that made the tokens.

    Attributes:
        coef_: (C, D) float32, weights of the standardised features.
        intercept_: (C,) float32.
        mean_: (D,) float32, mean of the tokens.
        std_: (D,) float32, standard deviation of the tokens.
        n_iter_: Number of iterations.
        loss_: Final value of the loss, including the penalty.

    Examples:
        >>> tokens = np.random.default_rng(0).normal(size=(6, 8, 8, 4)).astype(np.float32)
        >>> maps = np.repeat(np.repeat(tokens[..., 0] > 0, 4, 1), 4, 2).astype(np.uint8)
        >>> probe = LinearProbe().fit(tokens[:4], maps[:4])
        >>> probe.coef_.shape, bool((probe.predict(tokens[4:]) == maps[4:]).mean() > 0.8)
        ((2, 4), True)
    """

    l2: Annotated[float, Interval(ge=0, lt=math.inf)] = 1e-3
    _: KW_ONLY
    max_tokens: PositiveInt | None = 200_000
    max_iter: PositiveInt = 200
    tol: PositiveFloat = 1e-5
    n_classes: ClassCount | None = None
    size: MapSize | None = None
    seed: Seed = 0
    provenance: str = ""

    def fit(self, tokens: ArrayLike, label_maps: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Fit the weights, see :meth:`TokenProbe.fit`."""
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
        """Draw standardised tokens (n, D) and class shares (n, C), equally many from each frame."""
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
