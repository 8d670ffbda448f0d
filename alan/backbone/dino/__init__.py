"""DINO: self-distillation without labels (Caron et al. 2021)."""
