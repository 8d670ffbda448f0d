"""DINO self-distillation."""
