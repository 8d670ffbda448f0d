"""Method entries in a configuration of ``alan evaluate``."""

import pytest

from alan.cli.evaluate import read_method
from alan.downstream.probes.decoder import DecoderProbe
from alan.errors import ConfigError
from alan.evaluation.label_efficiency.methods import NetworkMethod, RuleMethod
from alan.evaluation.label_efficiency.probes import DecoderMethod
from alan.runs import plain
from alan.supervised.settings import TrainingSettings


def test_an_entry_builds_a_method_of_its_class():
    rule = read_method({"name": "greedy", "kind": "rule", "rule": "greedy", "parcels": "p", "per_phase": True})
    assert rule == RuleMethod("greedy", parcels="p", rule="greedy", per_phase=True)
    decoder = read_method({"name": "d", "kind": "decoder", "backbone": "b", "decoder": {"steps": 7}})
    assert isinstance(decoder, DecoderMethod)
    assert decoder.decoder.get_params() == DecoderProbe(steps=7).get_params()
    network = {"network": {"decoder": "unet_acdc", "encoder": None, "decoder_channels": [4, 8]}, "lr": "2.0e-3"}
    network = read_method({"name": "n", "kind": "network", "network": network})
    assert isinstance(network, NetworkMethod)
    assert network.network.network.decoder_channels == (4, 8)
    assert network.network.lr == 2e-3


def test_the_configuration_of_a_run_can_be_read_again():
    methods = [
        RuleMethod("greedy", parcels="p", rule="greedy"),
        DecoderMethod("d", backbone="b", decoder=DecoderProbe(steps=7), feature_levels=(2, "targets")),
        NetworkMethod("n", network=TrainingSettings(lr=2e-3, steps=5), init="s.safetensors"),
    ]
    settings = [plain(method.settings()) for method in methods]
    assert [plain(read_method(entry).settings()) for entry in settings] == settings


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"kind": "liner"}, "method 'm': unknown kind 'liner': did you mean 'linear'"),
        ({"kind": "linear", "backbne": "b"}, "method 'm': .*'backbne' is not known: did you mean 'backbone'"),
        ({"kind": "linear", "backbone": "b", "linear": {"l3": 1}}, "'l3' is not known: did you mean 'l2'"),
        ({"kind": "linear", "backbone": "b", "stride": "two"}, "method 'm': stride is two: give a whole number"),
        ({"kind": "linear"}, "method 'm': missing: backbone"),
        ({"kind": "atlas", "backbone": "x"}, "method 'm': option 'backbone' is not known"),
        (
            {"kind": "network", "network": {"steps": 0}},
            "method 'm': steps is 0: give a whole number of at least",
        ),
        ({}, "has no kind: give one of rule, linear"),
    ],
)
def test_a_wrong_entry_is_refused_in_one_line(entry, message):
    with pytest.raises(ConfigError, match=message):
        read_method({"name": "m", **entry})


def test_a_wrong_entry_is_reported_by_the_command(alan, tmp_path):
    ran = alan("evaluate", "--out", tmp_path / "run", "--label_efficiency.store", "s.h5",
               '--label_efficiency.methods=[{"name": "m", "kind": "rule", "parcls": "p"}]')  # fmt: skip
    assert ran.code == 2
    assert "did you mean 'parcels'" in ran.err
    assert ran.err.count("\n") == 1
