"""Metrics, protocols and results."""
