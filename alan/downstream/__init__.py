"""White-box models on parcels, decoders of frozen features, and weighted k nearest neighbours."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
