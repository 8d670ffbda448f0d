"""Datasets and Lightning data modules over frame stores."""
