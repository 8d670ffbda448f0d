from .program import write_program
from .runtime import OnnxBackbone, OnnxParcels, cached_program, open_program

__all__ = [
    "OnnxBackbone",
    "OnnxParcels",
    "cached_program",
    "open_program",
    "write_program",
]
