from .areas import area_cm2
from .beats import Beat, find_beats, heart_rate_bpm
from .volumes import (
    area_length_volume,
    biplane_volume,
    ejection_fraction,
    long_axis_cm,
    myocardial_mass_g,
    shortening_percent,
    simpson_volume,
)

__all__ = [
    "Beat",
    "area_cm2",
    "area_length_volume",
    "biplane_volume",
    "ejection_fraction",
    "find_beats",
    "heart_rate_bpm",
    "long_axis_cm",
    "myocardial_mass_g",
    "shortening_percent",
    "simpson_volume",
]
