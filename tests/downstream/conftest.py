"""Fixtures of the tests of white-box models."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest


@pytest.fixture(scope="session")
def slow():
    """The slow plain implementation, as a namespace."""
    return SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "whitebox" / "slow_reference.py")))
