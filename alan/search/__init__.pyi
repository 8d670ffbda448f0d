from .run import run_search
from .settings import StudySettings, TrialTraining
from .space import SearchSpace
from .study import SearchStudy

__all__ = [
    "SearchSpace",
    "SearchStudy",
    "StudySettings",
    "TrialTraining",
    "run_search",
]
