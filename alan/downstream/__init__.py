"""White-box models on parcels and features: parcel-to-segment and weighted k nearest neighbours."""
