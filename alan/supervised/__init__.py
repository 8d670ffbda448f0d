"""Supervised comparators on the same data, splits and report: networks, losses, training, ensembles."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
