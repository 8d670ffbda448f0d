"""``precision: auto``: bfloat16 where the hardware computes it faster, and what a run recorded is kept."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from alan import precision
from alan.precision import choose_precision, fast_bf16
from alan.shipped import shipped_configs

WITHOUT = "processor\t: 0\nflags\t\t: fpu sse2 avx512f avx512vl\nbugs\t\t: spectre_v1\n\nprocessor\t: 1\n"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """``machine(cpuinfo, gpu, faster)`` pretends to be another one; ``gpu`` None is a machine without a GPU."""

    def pretend(cpuinfo, gpu=None, faster=True):
        monkeypatch.setattr(precision, "_measured_faster", lambda: faster)
        path = tmp_path / "cpuinfo"
        path.write_text(cpuinfo, encoding="utf-8")
        monkeypatch.setattr(precision, "_CPUINFO", path)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu is not None)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: gpu)

    return pretend


@pytest.mark.parametrize("flag", ["avx512_bf16", "amx_bf16"])
def test_a_processor_with_bf16_uses_it_where_it_is_faster(machine, flag):
    flags = WITHOUT.replace("avx512vl", f"avx512vl {flag}")
    machine(flags)
    assert choose_precision("auto") == choose_precision("auto", "cpu") == "bf16-mixed"
    machine(flags, faster=False)
    assert choose_precision("auto") == choose_precision("auto", "cpu") == "32-true"


@pytest.mark.parametrize("factor", [0.5, 1.5])
def test_both_precisions_are_timed_on_the_processor(monkeypatch, factor):
    """Without a clock: each call of it lets pass one second in float32, and ``factor`` seconds in bfloat16."""
    passed = iter(np.cumsum([0.0, 1.0] * 4 + [0.0, factor] * 4))
    monkeypatch.setattr(precision.time, "process_time", lambda: next(passed))
    before = torch.get_rng_state()
    assert precision._measured_faster.__wrapped__() == (factor < 1)
    assert torch.equal(torch.get_rng_state(), before)  # results must not depend on the processor


def test_a_processor_without_bf16_computes_in_fp32(machine, monkeypatch, tmp_path):
    machine(WITHOUT)
    assert choose_precision("auto") == choose_precision("auto", "cpu") == "32-true"
    machine("Features\t: fp asimd bf16\n")  # how ARM lists its flags
    assert fast_bf16("cpu")
    monkeypatch.setattr(precision, "_CPUINFO", tmp_path / "none")  # not Linux
    assert not fast_bf16("cpu")


@pytest.mark.parametrize("native", [True, False])
def test_the_gpu_sets_the_precision_unless_the_cpu_is_chosen(machine, native):
    machine(WITHOUT, gpu=native)
    assert fast_bf16("auto") == fast_bf16("gpu") == fast_bf16("cuda") == native
    assert not fast_bf16("cpu")
    assert not fast_bf16("mps")


def test_a_stated_or_recorded_precision_is_kept(machine):
    machine(WITHOUT)
    assert choose_precision("bf16-mixed") == "bf16-mixed"
    assert choose_precision("auto", recorded="bf16-mixed") == "bf16-mixed"
    assert choose_precision("32-true", recorded="bf16-mixed") == "32-true"
    assert choose_precision("auto", recorded="auto") == "32-true"


def test_shipped_configurations_do_not_force_bfloat16():
    """Emulated, it is several times slower than float32."""
    forced = re.compile(r"^\s*precision: *(bf16|16)", re.MULTILINE)
    paths = list(shipped_configs().values())
    assert len(paths) > 40
    assert [path for path in paths if forced.search(Path(path).read_text(encoding="utf-8"))] == []
