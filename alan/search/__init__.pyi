from .run import run_search
from .settings import SearchData, StudySettings
from .space import SearchSpace
from .study import SearchStudy

__all__ = [
    "SearchData",
    "SearchSpace",
    "SearchStudy",
    "StudySettings",
    "run_search",
]
