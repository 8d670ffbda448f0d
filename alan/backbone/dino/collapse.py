"""Detection of collapsing DINO trainings from the teacher's outputs and features."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def collapse_statistics(probabilities: Tensor, cls: Tensor) -> dict[str, float]:
    """Compute statistics that show a collapse.

    Args:
        probabilities: (n, K) centred, sharpened teacher outputs of a batch.
        cls: (n, D) CLS tokens of the teacher.

    Returns:
        ``teacher_entropy``: mean entropy of an output in nats, ln K for uniform outputs;
        ``mean_entropy``: entropy of the mean output, 0 when all images fall on one prototype;
        ``spread``: standard deviation over the batch of the L2-normalised tokens, times sqrt(D): about 1 when they
        point in all directions, 0 when all are equal.
    """
    p = probabilities.float()
    tokens = F.normalize(cls.float(), dim=-1)
    spread = tokens.std(0, correction=0).mean() * math.sqrt(tokens.shape[1])
    return {
        "teacher_entropy": _entropy(p).mean().item(),
        "mean_entropy": _entropy(p.mean(0)).item(),
        "spread": spread.item(),
    }


def describe_collapse(statistics: dict[str, float], outputs: int) -> str | None:
    """Describe in one line the kind of collapse that the statistics show, or return None.

    Args:
        statistics: Result of :func:`collapse_statistics`.
        outputs: Number of prototypes K.
    """
    most = math.log(outputs)
    if statistics["spread"] < 0.02:
        return f"all images have nearly the same features (spread {statistics['spread']:.4f}, bound 0.02)"
    if statistics["mean_entropy"] < 0.02 * most:
        return f"all images fall on one prototype (entropy of the mean {statistics['mean_entropy']:.3f} nats)"
    if statistics["teacher_entropy"] > 0.98 * most:
        return (
            f"the teacher's outputs are uniform (entropy {statistics['teacher_entropy']:.3f} of {most:.3f} nats)"
        )
    return None


def _entropy(p: Tensor) -> Tensor:
    return -torch.xlogy(p, p).sum(-1)
