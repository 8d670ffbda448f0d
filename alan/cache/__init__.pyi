from .reader import FeatureCache
from .run import write_cache
from .sequences import TokenSequenceDataModule
from .writer import CacheWriter, FeatureModule

__all__ = [
    "CacheWriter",
    "FeatureCache",
    "FeatureModule",
    "TokenSequenceDataModule",
    "write_cache",
]
