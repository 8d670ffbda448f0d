from .program import Format, write_program
from .runtime import OnnxBackbone, OnnxParcels, cached_program, open_program

__all__ = [
    "Format",
    "OnnxBackbone",
    "OnnxParcels",
    "cached_program",
    "open_program",
    "write_program",
]
