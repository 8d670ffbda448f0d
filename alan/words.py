"""Counts in words, as messages and reports show them."""


def plural(n: int, one: str, many: str = "") -> str:
    """Format a count with its noun: ``1 patient``, ``2 patients``, ``1,041 images``."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def capitalised(text: str) -> str:
    """Write the first letter of a text as a capital, and leave the others as they are."""
    return text[:1].upper() + text[1:]


def sentence(text: str) -> str:
    """Write a text as a sentence: with a capital letter and a full stop."""
    return f"{capitalised(text).rstrip('.')}."
