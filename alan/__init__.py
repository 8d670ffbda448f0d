"""ALAN, the Adaptive Locked Agnostic Network: a locked backbone, parcels and white-box models.

Packages and public names are imported when they are first used, so ``import alan`` costs nothing:
``alan.load_backbone("alan-sim")``, ``alan.parcels.RaptorModule``.
"""

import lazy_loader

from alan._version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
