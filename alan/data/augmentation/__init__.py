"""Random augmentation of batches: multi-crop views, dense targets, presets of the papers."""
