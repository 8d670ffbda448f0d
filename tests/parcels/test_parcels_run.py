"""``alan parcels``: run folder, repeated runs, settings and invalid input."""

import yaml

from alan.backbone.load import load_backbone
from alan.data.store.reader import FrameStore
from alan.parcels.guided import GuidedFilter
from alan.parcels.kmeans import fit_kmeans
from alan.parcels.model import load_parcels


def test_a_run_equals_the_function_and_is_computed_once(tiny, alan, tmp_path, listing):
    store, out = FrameStore(tiny.store("camus")), tmp_path / "run"
    args = ["--store", store.path, "--backbone", tiny.backbone(), "--out", out, "--n_parcels", 8]
    args += ["--spherical", "true", "--refine.radius", 3, "--seed", 1]
    assert alan("parcels", *args).code == 0
    assert listing(out) == ["config.yaml", "parcels.safetensors"]
    found = load_parcels(out / "parcels.safetensors")
    train = [f for s in store.select("train") for f in range(s.start, s.start + s.length)]
    backbone = load_backbone(tiny.backbone())
    options = {"spherical": True, "sector_only": True, "seed": 1, "refine": GuidedFilter(radius=3)}
    assert found.fingerprint == fit_kmeans(backbone, store.frames(train), 8, **options).fingerprint
    assert yaml.safe_load((out / "config.yaml").read_text())["refine"] == {
        "radius": 3,
        "eps": 0.01,
        "subsample": 2,
    }

    before = (out / "parcels.safetensors").stat().st_mtime_ns
    again = alan("parcels", *args)
    assert again.code == 0
    assert "nothing to do" in again.err
    assert "nothing to do" in alan("parcels", *args, "--device=auto").err  # another device is no other run
    assert (out / "parcels.safetensors").stat().st_mtime_ns == before
    other = alan("parcels", *args, "--n_parcels", 9)
    assert (other.code, len(other.lines)) == (2, 1)
    assert "n_parcels" in other.err
    assert alan("parcels", *args, "--n_parcels", 9, "--frames", 1, "--overwrite", "true").code == 0
    assert load_parcels(out / "parcels.safetensors").n_parcels == 9


def test_invalid_input_is_refused_and_leaves_no_files(tiny, alan, tmp_path):
    out = tmp_path / "run"
    args = ["--store", tiny.store("camus"), "--backbone", tiny.backbone(), "--out", out]
    for wrong, message in (
        (["--n_parcels", 300], "n_parcels is 300"),
        (["--max_samples", 7, "--n_parcels", 8, "--backbone", "no-model"], "max_samples is 7: give at least"),
        (["--whiten", "true", "--backbone", "no-model"], "only principal components"),
        (["--split", "trian"], "did you mean 'train'"),
        (["--refine.radius", 0], "radius is 0"),
        (["--backbone", "nowhere.safetensors"], "no such file"),
        (["--n_parsels", 3], "did you mean 'n_parcels'"),
    ):
        ran = alan("parcels", *args, *wrong)
        assert (ran.code, len(ran.lines)) == (2, 1), ran.err
        assert message in ran.err
        assert not out.exists()
