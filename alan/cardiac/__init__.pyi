from .areas import area_cm2
from .beats import Beat, find_beats
from .linear import (
    LinearDimensions,
    anteroposterior_diameter_cm,
    linear_dimensions,
    linear_mass_g,
    mean_wall_thickness_cm,
)
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
    "LinearDimensions",
    "anteroposterior_diameter_cm",
    "area_cm2",
    "area_length_volume",
    "biplane_volume",
    "ejection_fraction",
    "find_beats",
    "fit_heart_rate",
    "heart_rate_of_beats",
    "heart_rate_of_r_waves",
    "linear_dimensions",
    "linear_mass_g",
    "long_axis_cm",
    "mean_wall_thickness_cm",
    "myocardial_mass_g",
    "shared_length_ejection_fraction",
    "shortening_percent",
    "simpson_volume",
]
