from .dropout import MonteCarloDropout
from .loop import run_active
from .settings import ActiveLoop, PoolData
from .suggest import Suggestion

__all__ = [
    "ActiveLoop",
    "MonteCarloDropout",
    "PoolData",
    "Suggestion",
    "run_active",
]
