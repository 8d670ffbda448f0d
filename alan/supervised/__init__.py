"""Supervised comparators on the same data, splits and report: networks, losses, augmentation, training."""
