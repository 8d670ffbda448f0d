"""Every shipped YAML runs by its short name: it parses as it is and takes one step on tiny data."""

import json
import re
from pathlib import Path

import h5py
import pytest
import yaml

from alan.active.dropout import MonteCarloDropout
from alan.backbone.load import load_backbone
from alan.cache.reader import FeatureCache
from alan.cli.fit import run_lightning
from alan.data.store.reader import FrameStore
from alan.data.structures import n_classes
from alan.downstream.members import load_ensemble
from alan.parcels.model import load_parcels
from alan.search.space import SearchSpace
from alan.shipped import shipped_configs
from alan.supervised.networks import build_network
from alan.supervised.segmenter import load_segmenter
from alan.supervised.settings import NetworkSpec

from .discs import untrained_segmenter
from .sandbox import ONE_STEP, Command, Sandbox

ROOT = Path(__file__).parents[1] / "configs"
CONFIGS = [*shipped_configs()]
GROUPS = {
    "active",
    "cache",
    "dino",
    "ensemble",
    "evaluate",
    "parcels",
    "prepare",
    "raptor",
    "search",
    "sim",
    "supervised",
}


def configs(group):
    return [name for name in CONFIGS if name.startswith(f"{group}/")]


def read(name):
    return yaml.safe_load((ROOT / f"{name}.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def run(tiny, alan, tmp_path, monkeypatch, capsys):
    """``run(verb, name, *options)``: run a configuration in an empty folder that becomes the current one."""
    monkeypatch.chdir(tmp_path)
    sandbox = Sandbox(tmp_path, tiny, size=64)

    def call(verb, name, *options):
        code = sandbox(*verb.split(), "--config", name, *options)
        assert code == 0, capsys.readouterr().err

    call.sandbox = sandbox
    return call


def test_every_config_belongs_to_a_known_group():
    assert {name.partition("/")[0] for name in CONFIGS} == GROUPS


def test_commands_in_comments_name_existing_configs():
    """Comments say how a config is used: with its own name, and with options rather than bare words."""
    for name in CONFIGS:
        for command in re.findall(r"#\s+(alan .*)", (ROOT / f"{name}.yaml").read_text(encoding="utf-8")):
            assert re.match(r"alan (active )?\w+ --", command), f"{name}: {command}"
            for path in re.findall(r"--config (?:configs/)?((?!runs/)\S+?)(?:\.yaml)?(?=\s|$)", command):
                assert path in CONFIGS, f"{name}: {command}"


@pytest.mark.parametrize("name", configs("prepare"))
def test_every_prepare_config_runs(name, run):
    run("prepare", name)
    config = read(name)
    store = FrameStore(config["out"])
    assert store.size == config.get("size", 112)
    assert {s.split for s in store.sequences} == {"train", "val", "test"}
    assert {s.view for s in store.sequences} == set(config.get("views") or (s.view for s in store.sequences))


@pytest.mark.parametrize("name", configs("dino"))
def test_every_dino_config_trains_one_step(name, run):
    run("fit", name, "--out", "run")
    check_run()
    network = read(name)["model"]["init_args"]["network"]
    backbone = load_backbone("run/backbone.safetensors")
    assert (backbone.spec.patch_size, backbone.dim) == (network["patch_size"], network["dim"])
    assert backbone.spec.depth == 1


@pytest.mark.parametrize("name", configs("dino"))
def test_every_dino_config_builds_at_full_size(name, run):
    """The module as it is shipped can be built; no step is taken."""
    for text in Command(["fit", "--config", name]).inputs():
        run.sandbox.provide(text)
    args = ["fit", "--config", str(ROOT / f"{name}.yaml"), "--out", "run", *ONE_STEP]
    model = run_lightning([*args, "--trainer.limit_train_batches=0"]).model
    shipped = read(name)["model"]["init_args"]
    assert (model.spec.dim, model.spec.depth) == (shipped["network"]["dim"], shipped["network"]["depth"])
    assert model.student.head.last_layer.weight.shape[0] == shipped["outputs"]
    assert len(model.student.network.blocks) == shipped["network"]["depth"]
    assert (model.patch_weight > 0) == (model.student.patch_head is not None)
    assert not Path("run").exists()


@pytest.mark.parametrize("name", configs("sim"))
def test_every_sim_config_trains_one_step(name, run):
    """The network itself is built; a vision transformer takes its step with one block."""
    run("fit", name, "--out", "run")
    check_run()
    settings = read(name)["model"]["init_args"]
    validated = "outputs" not in settings and read(name)["data"]["init_args"].get("val_split", "val") is not None
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert any("val_dice" in line for line in lines) == validated
    backbone = load_backbone("run/backbone.safetensors")
    network = settings["network"].get("init_args", settings["network"])
    if "depth" in network:
        assert (backbone.dim, backbone.spec.patch_size) == (network["dim"], network["patch_size"])
    elif "name" in network:
        assert (backbone.spec.name, backbone.spec.image_size) == (network["name"], network["image_size"])
    else:
        assert list(backbone.spec.widths) == network["widths"]
        assert backbone.spec.structures == tuple(settings["objective"]["structures"])


@pytest.mark.parametrize("name", configs("raptor"))
def test_every_raptor_config_trains_one_step(name, run):
    data, args = read(name)["data"]["init_args"], []
    if "cache" in data:  # the tokens that it trains from
        options = {"store": data["store"], "backbone": read(name)["model"]["init_args"]["backbone"]}
        options |= {"out": data["cache"], "features": "[tokens]", "split": "train"}
        options |= {"stride": read(name)["model"]["init_args"]["stride"]}
        args = [word for key, value in options.items() for word in (f"--{key}", value)]
        assert run.sandbox("cache", *args) == 0
    run("fit", name, "--out", "run")
    check_run()
    n_parcels = read(name)["model"]["init_args"]["n_parcels"]
    assert load_parcels("run/parcels.safetensors").n_parcels == n_parcels


@pytest.mark.parametrize("name", configs("parcels"))
def test_every_parcels_config_runs(name, run):
    run("parcels", name, "--out", "run")
    assert load_parcels("run/parcels.safetensors").n_parcels == read(name)["n_parcels"]


@pytest.mark.parametrize("name", configs("supervised"))
def test_every_supervised_config_trains_one_step(name, run):
    """The network itself is built; the step is taken by a light one of the same decoder."""
    settings = read(name)["model"]["init_args"]
    build_network(NetworkSpec(**settings["network"]), n_classes(settings["structures"]))
    run("fit", name, "--out", "run")
    check_run()
    segmenter = load_segmenter("run/segmenter.safetensors")
    assert segmenter.structures == tuple(settings["structures"])
    assert segmenter.spec.decoder == settings["network"]["decoder"]


def check_run():
    """The run folder of ``alan fit``: all of its files, and one step in them."""
    out = Path("run")
    assert (out / "checkpoints" / "last.ckpt").is_file()
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [0]
    saved = yaml.safe_load((out / "config.yaml").read_text(encoding="utf-8"))
    assert saved["trainer"]["max_steps"] == 1


@pytest.mark.parametrize("name", configs("cache"))
def test_every_cache_config_runs(name, run):
    run("cache", name)
    config = read(name)
    cache = FeatureCache(config["out"], backbone=load_backbone(config["backbone"]))
    assert set(cache.names) - {"sector"} == set(config["features"])
    with h5py.File(config["out"]) as file:
        assert file["done"][:].all()


@pytest.mark.parametrize("name", configs("ensemble"))
def test_every_ensemble_config_runs(name, run):
    run("ensemble", name)
    config = read(name)
    ensemble = load_ensemble(f"{config['out']}/ensemble.json")
    assert list(ensemble.members) == list(config["members"])
    known = ensemble.provenance["validation"]
    settings = (config["sampler"], config["objective"], "val")
    assert (known["sampler"], known["objective"], known["split"]) == settings


@pytest.mark.parametrize("name", configs("evaluate"))
def test_every_evaluate_config_runs(name, run):
    run("evaluate", name)
    config = read(name)
    out = Path(config["out"])
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert results["title"] == config["title"]
    parts = {"segmentation", "views", "label_efficiency"}
    assert {part for part in parts if results.get(part)} == parts & set(config)
    if "label_efficiency" in config:
        assert not [note for note in results["label_efficiency"]["notes"] if not note["structure"]]  # none failed
    assert (out / "report.html").read_text(encoding="utf-8").startswith("<!")
    assert (out / "config.yaml").is_file()


@pytest.mark.parametrize("name", configs("search"))
def test_every_search_config_runs_one_trial(name, run):
    """The space as it is shipped, then one trial of a light pair of it with the settings of the training."""
    config = read(name)
    axes = {key: tuple(value) if isinstance(value, list) else value for key, value in config["space"].items()}
    space = SearchSpace(**axes).resolve_names()
    if name == "search/ednas":
        assert space.size == 46 * 9 * 6 * 3 == 7452
    run("search", name, "--out", "run")
    results = json.loads(Path("run/results.json").read_text(encoding="utf-8"))
    assert [row["state"] for row in results["trials"]] == ["complete"], results["failed"]
    assert Path("run/best.yaml").is_file()
    assert Path("run/report.html").is_file()


@pytest.mark.parametrize("name", configs("active"))
def test_every_active_config_runs(name, run):
    """The network as it is shipped is built with its dropout; a light one of the same decoder takes the steps."""
    config = read(name)
    MonteCarloDropout(
        untrained_segmenter(NetworkSpec(**config["training"]["network"]), config["data"]["structures"])
    )
    run("active run", name, "--out", "run")
    results = json.loads(Path("run/results.json").read_text(encoding="utf-8"))
    assert {row["function"] for row in results["curves"]} == set(config["loop"]["functions"])
    assert {row["n_labels"] for row in results["curves"]} == {2, 3}
    assert Path("run/report.html").read_text(encoding="utf-8").startswith("<!")
