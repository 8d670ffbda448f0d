"""Active learning: Monte-Carlo dropout, acquisition functions, choice of a batch, the loop and the ranked list."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
