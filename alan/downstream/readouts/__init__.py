"""Decoders of frozen tokens and soft parcels."""
