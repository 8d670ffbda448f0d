"""Readers of public archives and of own folders: one class per layout."""
