from .areas import area_cm2
from .volumes import area_length_volume, ejection_fraction, long_axis_cm, simpson_volume

__all__ = [
    "area_cm2",
    "area_length_volume",
    "ejection_fraction",
    "long_axis_cm",
    "simpson_volume",
]
