"""Parcel-to-segment: white-box models that choose parcels by counting."""
