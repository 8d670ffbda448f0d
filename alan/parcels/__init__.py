"""Parcels: token heads, their losses and trainings, k-means, parcel maps."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
