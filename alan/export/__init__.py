"""Parcel models as programs of other software: ONNX and torch.export, and parcels that onnxruntime computes."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
