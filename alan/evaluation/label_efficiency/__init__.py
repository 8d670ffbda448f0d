"""Dice against the number of labelled patients."""
