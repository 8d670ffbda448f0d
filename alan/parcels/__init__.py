"""Parcels: the RAPTOR head, its loss, the k-means baseline, parcel maps."""
