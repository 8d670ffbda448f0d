"""Simulated echocardiograms: a beating heart of known volumes, and archives of it in the official layouts."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
