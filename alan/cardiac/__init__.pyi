from .areas import area_cm2
from .beats import Beat, find_beats
from .rhythm import HeartRate, fit_heart_rate, heart_rate_of_beats, heart_rate_of_r_waves
from .volumes import (
    area_length_volume,
    biplane_volume,
    ejection_fraction,
    long_axis_cm,
    myocardial_mass_g,
    shared_length_ejection_fraction,
    shortening_percent,
    simpson_volume,
)

__all__ = [
    "Beat",
    "HeartRate",
    "area_cm2",
    "area_length_volume",
    "biplane_volume",
    "ejection_fraction",
    "find_beats",
    "fit_heart_rate",
    "heart_rate_of_beats",
    "heart_rate_of_r_waves",
    "long_axis_cm",
    "myocardial_mass_g",
    "shared_length_ejection_fraction",
    "shortening_percent",
    "simpson_volume",
]
