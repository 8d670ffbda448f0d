"""Probes of frozen tokens: a linear classifier and a small decoder."""
