from .dropout import MonteCarloDropout
from .loop import run_active
from .merge import merge_runs
from .settings import ActiveLoop, PoolData
from .suggest import Suggestion, open_pool, suggest_images
from .suggestion import run_suggestion

__all__ = [
    "ActiveLoop",
    "MonteCarloDropout",
    "PoolData",
    "Suggestion",
    "merge_runs",
    "open_pool",
    "run_active",
    "run_suggestion",
    "suggest_images",
]
