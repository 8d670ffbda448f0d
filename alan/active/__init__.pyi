from .dropout import MonteCarloDropout
from .loop import run_active
from .protocol import ActiveLoop, PoolData
from .suggest import Suggestion
from .training import Training

__all__ = [
    "ActiveLoop",
    "MonteCarloDropout",
    "PoolData",
    "Suggestion",
    "Training",
    "run_active",
]
