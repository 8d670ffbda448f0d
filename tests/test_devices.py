"""Devices by name."""

import pytest
import torch

from alan.devices import choose_device
from alan.errors import ParameterError


def test_a_device_is_chosen_by_name(monkeypatch):
    assert choose_device("cpu") == torch.device("cpu")
    for available, kind in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert choose_device().type == kind


def test_an_unknown_device_is_refused():
    with pytest.raises(ParameterError, match="device is 'abacus', which cannot be used here"):
        choose_device("abacus")
