"""Analysis of echocardiographic loops: from files of any vendor to beats, volumes and ejection fraction."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
