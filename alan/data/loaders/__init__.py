"""Data sets and Lightning data modules over frame stores."""
