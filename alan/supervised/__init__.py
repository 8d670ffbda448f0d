"""Supervised comparators on the same data, splits and report: encoders and decoders of segmentation_models_pytorch."""
