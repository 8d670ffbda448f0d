"""Physics of the heart, no learning: areas, volumes, ejection fraction."""
