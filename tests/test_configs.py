"""Every shipped YAML parses through the command line and runs one step on tiny data."""

import copy
import json
import re
from pathlib import Path

import h5py
import pytest
import yaml

from alan.active.dropout import MonteCarloDropout
from alan.backbone.load import load_backbone
from alan.cache.reader import FeatureCache
from alan.cache.run import write_cache
from alan.cli.fit import run_lightning
from alan.data.store.reader import FrameStore
from alan.data.structures import n_classes
from alan.downstream.members import load_ensemble, save_ensemble
from alan.parcels.model import load_parcels
from alan.search.space import SearchSpace
from alan.supervised.ensemble import EnsembleSegmenter
from alan.supervised.networks import NetworkSpec
from alan.supervised.segmenter import load_segmenter, save_segmenter, untrained_segmenter

ROOT = Path(__file__).parents[1] / "configs"
CONFIGS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.y*ml"))
#: What makes a training fast without leaving its settings: one step, two samples, this machine's CPU.
ONE_STEP = ("--trainer.max_steps=1", "--data.init_args.batch_size=2", "--data.init_args.num_workers=0")
ONE_STEP += ("--trainer.accelerator=cpu", "--trainer.log_every_n_steps=1", "--trainer.enable_progress_bar=false")
#: A network of the same patches, width and crops, with one block and a narrow head.
SHALLOW = {"vit.depth": 1, "outputs": 64, "hidden": 32, "bottleneck": 16}


def configs(group):
    return [name for name in CONFIGS if name.startswith(f"{group}/")]


def read(name):
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def layout_of(path):
    """The archive that a path in a config speaks of; the demo trains on CAMUS-like ones."""
    return next((layout for layout in ("echonet", "tmed") if layout in path), "camus")


def stores_of(name, tiny):
    return [tiny.store(layout_of(path)) for path in read(name)["data"]["init_args"]["stores"]]


def test_every_config_is_of_a_known_group():
    groups = {
        "prepare",
        "dino",
        "raptor",
        "supervised",
        "cache",
        "evaluate",
        "search",
        "parcels",
        "sim",
        "ensemble",
    }
    groups |= {"active"}
    assert {name.partition("/")[0] for name in CONFIGS} == groups


def test_commands_in_comments_name_configs_that_exist():
    """Comments say how a config is used: with its own name, and with options rather than bare words."""
    for name in CONFIGS:
        for command in re.findall(r"#\s+(alan .*)", (ROOT / name).read_text(encoding="utf-8")):
            assert re.match(r"alan (active )?\w+ --", command), f"{name}: {command}"
            for path in re.findall(r"configs/(\S+\.yaml)", command):
                assert path in CONFIGS, f"{name}: {command}"


@pytest.mark.parametrize("name", configs("prepare"))
def test_prepare(name, tiny, alan, tmp_path):
    config, out = read(name), tmp_path / "store.h5"
    args = ["--config", ROOT / name, "--root", tiny.archive(config["kind"]), "--out", out, "--workers", 0]
    if isinstance(config.get("split"), dict):  # ranges of the real archive's patients
        sides = dict(zip(config["split"], ("1-4", "5-6", "7-8"), strict=True))
        args += [f"--split={json.dumps(sides)}"]
    ran = alan("prepare", *args)
    assert ran.code == 0, ran.err
    store = FrameStore(out)
    assert store.size == config.get("size", 112)
    assert {s.split for s in store.sequences} == {"train", "val", "test"}
    assert {s.view for s in store.sequences} == set(config.get("views") or (s.view for s in store.sequences))


@pytest.mark.parametrize("name", configs("dino"))
def test_dino(name, tiny, alan, tmp_path):
    out = tmp_path / "run"
    small = [f"--model.init_args.{key}={value}" for key, value in SHALLOW.items()]
    stores = f"--data.init_args.stores={json.dumps(stores_of(name, tiny))}"
    ran = alan("fit", "--config", ROOT / name, "--out", out, *ONE_STEP, stores, *small)
    assert ran.code == 0, ran.err
    check_run(out)
    vit = read(name)["model"]["init_args"]["vit"]
    backbone = load_backbone(out / "backbone.safetensors")
    assert (backbone.patch_size, backbone.dim) == (vit["patch_size"], vit["dim"])
    assert backbone.spec.depth == 1


@pytest.mark.parametrize("name", configs("dino"))
def test_dino_at_full_size(name, tiny, tmp_path):
    """The module as it is shipped can be built; no step is taken."""
    out = tmp_path / "run"
    stores = f"--data.init_args.stores={json.dumps(stores_of(name, tiny))}"
    args = ["--config", str(ROOT / name), "--out", str(out), *ONE_STEP, "--trainer.max_steps=0"]
    model = run_lightning(["fit", *args, stores]).model
    shipped = read(name)["model"]["init_args"]
    assert (model.spec.dim, model.spec.depth) == (shipped["vit"]["dim"], shipped["vit"]["depth"])
    assert model.student.head.last_layer.weight.shape[0] == shipped["outputs"]
    assert len(model.student.vit.blocks) == shipped["vit"]["depth"]
    assert (model.patch_weight > 0) == (model.student.patch_head is not None)
    assert not out.exists()


@pytest.mark.parametrize("name", configs("sim"))
def test_sim(name, tiny, alan, tmp_path):
    """The network itself is built; a vision transformer takes its step with one block."""
    out, settings = tmp_path / "run", read(name)["model"]["init_args"]
    args = [f"--data.init_args.stores={json.dumps(stores_of(name, tiny))}"]
    if "unlabelled" in read(name)["data"]["init_args"]:
        args += [f"--data.init_args.unlabelled={json.dumps([tiny.store('echonet')])}"]
        args += ["--data.init_args.unlabelled_batch_size=2"]
    args += ["--model.init_args.vit.depth=1"] if "vit" in settings else []
    if "outputs" in settings:  # with DINO, which has no validation
        args += [f"--model.init_args.{key}={value}" for key, value in SHALLOW.items()]
    else:
        args += ["--trainer.val_check_interval=1"]
    ran = alan("fit", "--config", ROOT / name, "--out", out, *ONE_STEP, *args)
    assert ran.code == 0, ran.err
    check_run(out)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert any("val_dice" in line for line in lines) == ("outputs" not in settings)
    backbone = load_backbone(out / "backbone.safetensors")
    if "vit" in settings:
        assert (backbone.dim, backbone.patch_size) == (settings["vit"]["dim"], settings["vit"]["patch_size"])
    else:
        assert list(backbone.spec.widths) == settings["conv"]["widths"]
        assert backbone.spec.structures == tuple(settings["structures"])


@pytest.mark.parametrize("name", configs("raptor"))
def test_raptor(name, tiny, alan, tmp_path):
    out, data = tmp_path / "run", read(name)["data"]["init_args"]
    backbone = f"--model.init_args.backbone={tiny.backbone()}"
    if "cache" in data:
        store, tokens = tiny.store(layout_of(data["store"])), tmp_path / "tokens.h5"
        stride = read(name)["model"]["init_args"]["stride"]
        write_cache(str(store), str(tiny.backbone()), str(tokens), what=("tokens",), split="train", stride=stride)
        source = [f"--data.init_args.cache={tokens}", f"--data.init_args.store={store}"]
    else:
        source = [f"--data.init_args.stores={json.dumps(stores_of(name, tiny))}"]
    if data["n_frames"] and layout_of(str(source)) == "camus":
        source.append("--data.init_args.n_frames=3")  # the frames of the tiny CAMUS archive are four
    ran = alan("fit", "--config", ROOT / name, "--out", out, *ONE_STEP, backbone, *source)
    assert ran.code == 0, ran.err
    check_run(out)
    assert load_parcels(out / "parcels.safetensors").n_parcels == read(name)["model"]["init_args"]["n_parcels"]


@pytest.mark.parametrize("name", configs("parcels"))
def test_parcels(name, tiny, alan, tmp_path):
    config, out = read(name), tmp_path / "run"
    args = ["--store", tiny.store(layout_of(config["store"])), "--backbone", tiny.backbone(), "--out", out]
    ran = alan("parcels", "--config", ROOT / name, *args)
    assert ran.code == 0, ran.err
    assert load_parcels(out / "parcels.safetensors").n_parcels == config["n_parcels"]


@pytest.mark.parametrize("name", configs("supervised"))
def test_supervised(name, tiny, alan, tmp_path):
    """The network itself is built; the step is taken by a light one of the same decoder."""
    out, settings = tmp_path / "run", read(name)["model"]["init_args"]
    network = settings["network"]
    NetworkSpec(**network).build(n_classes(settings["structures"]))
    light = "decoder_channels=[4,8,16,32,64]" if network["encoder"] is None else "encoder=mobilenet_v2"
    light = [] if network["encoder"] == "mit_b0" else [f"--model.init_args.network.{light}"]
    structures = [part.replace("rv", "la") for part in settings["structures"]]  # the tiny archive's
    both = [f"--{part}.init_args.structures={json.dumps(structures)}" for part in ("model", "data")]
    stores = f"--data.init_args.stores={json.dumps(stores_of(name, tiny))}"
    everyone = "--data.init_args.label_patients=null"
    ran = alan("fit", "--config", ROOT / name, "--out", out, *ONE_STEP, stores, everyone, *both, *light)
    assert ran.code == 0, ran.err
    check_run(out)
    segmenter = load_segmenter(out / "segmenter.safetensors")
    assert segmenter.structures == tuple(structures)
    assert (segmenter.spec.decoder, segmenter.size) == (network["decoder"], 112)


def check_run(out):
    """The run folder of ``alan fit``: all of its files, and one step in them."""
    assert (out / "checkpoints" / "last.ckpt").is_file()
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [0]
    saved = yaml.safe_load((out / "config.yaml").read_text(encoding="utf-8"))
    assert saved["trainer"]["max_steps"] == 1


@pytest.mark.parametrize("name", configs("cache"))
def test_cache(name, tiny, alan, tmp_path):
    config, out = read(name), tmp_path / "cache.h5"
    args = ["--store", tiny.store(layout_of(config["store"])), "--backbone", tiny.backbone(), "--out", out]
    if config.get("parcels"):
        args += ["--parcels", tiny.parcels()]
    ran = alan("cache", "--config", ROOT / name, *args, "--num_workers", 0, "--accelerator", "cpu")
    assert ran.code == 0, ran.err
    cache = FeatureCache(out, backbone=load_backbone(tiny.backbone()))
    assert set(cache.names) - {"sector"} == set(config["what"])
    with h5py.File(out) as file:
        assert file["done"][:].all()


def light_networks(files, structures, folder):
    """Files of untrained networks of the structures, and an ensemble of two where the config names one."""
    spec = NetworkSpec(decoder="unet_acdc", encoder=None, decoder_channels=(4, 8))
    paths = {name: str(folder / f"network{n}.safetensors") for n, name in enumerate(files)}
    networks = {name: untrained_segmenter(spec, structures, seed=n) for n, name in enumerate(files)}
    for name, network in networks.items():
        save_segmenter(network, paths[name])
    for name in [name for name, file in files.items() if file.endswith(".json")]:
        others = {other: network for other, network in networks.items() if files[other] != files[name]}
        save_ensemble(EnsembleSegmenter(others), folder / "ensemble.json", paths)
        paths[name] = str(folder / "ensemble.json")
    return paths


@pytest.mark.parametrize("name", configs("ensemble"))
def test_ensemble(name, tiny, alan, tmp_path):
    config, out = read(name), tmp_path / "run"
    members = light_networks(config["members"], ["lv", "myo", "la"], tmp_path)
    args = ["--store", tiny.store("camus"), f"--members={json.dumps(members)}", "--trials", 5, "--out", out]
    ran = alan("ensemble", "--config", ROOT / name, *args)
    assert ran.code == 0, ran.err
    ensemble = load_ensemble(out / "ensemble.json")
    assert list(ensemble.members) == list(config["members"])
    known = ensemble.provenance["validation"]
    assert (known["sampler"], known["objective"], known["split"]) == (
        config["sampler"],
        config["objective"],
        "val",
    )


def light_efficiency(efficiency, tiny, folder):
    """Arguments that make a label-efficiency config small: tiny models and store, one step, two cells a method."""
    methods = copy.deepcopy(efficiency["methods"])
    for method in methods:
        if "backbone" in method:
            method["backbone"] = tiny.backbone()
            method["feature_levels"] = None  # the tiny backbone is a ViT
        if "prior" in method:
            method["prior"] = tiny.store("camus", 1)  # of other patients
        if "segmenter" in method:
            spec = NetworkSpec(decoder="unet_acdc", encoder=None, decoder_channels=(4, 8))
            method["segmenter"] = str(folder / "fixed.safetensors")
            save_segmenter(untrained_segmenter(spec, efficiency["structures"], "sector", 112), method["segmenter"])
        if "parcels" in method:
            method["parcels"] = tiny.parcels()
        if method["kind"] == "decoder":
            method["decoder"] = {**method.get("decoder", {}), "steps": 1}
        if method["kind"] == "network":
            method["network"] |= {"steps": 1, "batch_size": 2}
        if "init" in method:
            training = method["network"]
            spec = {**training["network"], "decoder_channels": tuple(training["network"]["decoder_channels"])}
            method["init"] = str(folder / "start.safetensors")
            start = untrained_segmenter(
                NetworkSpec(**spec), efficiency["structures"], training["normalisation"], 112
            )
            save_segmenter(start, method["init"])
    options = {
        "methods": methods,
        "label_patients": [1, None],
        "seeds": [0],
        "workers": 1,
        "work": None,
    }
    store = ["--label_efficiency.store", tiny.store("camus")]
    return [*store, *(f"--label_efficiency.{name}={json.dumps(value)}" for name, value in options.items())]


@pytest.mark.parametrize("name", configs("evaluate"))
def test_evaluate(name, tiny, alan, tmp_path):
    config, out = read(name), tmp_path / "run"
    args = []
    if segmentation := config.get("segmentation"):
        args += ["--segmentation.store", tiny.store(layout_of(segmentation["store"]))]
        if segmentation.get("parcels"):
            parcels = dict.fromkeys(segmentation["parcels"], tiny.parcels())
            args += [f"--segmentation.parcels={json.dumps(parcels)}"]
        structures = [name.replace("rv", "la") for name in segmentation["structures"]]  # the tiny archive's
        args += [f"--segmentation.structures={json.dumps(structures)}"]
        if segmentation.get("networks"):
            networks = light_networks(segmentation["networks"], structures, tmp_path)
            args += [f"--segmentation.networks={json.dumps(networks)}"]
        args += ["--segmentation.kmeans_frames", 16, "--segmentation.views=[A4C]"]
        if segmentation.get("label_patients"):
            args += ["--segmentation.label_patients", 2]
    if views := config.get("views"):
        args += ["--views.store", tiny.store(layout_of(views["store"])), "--views.backbone", tiny.backbone()]
    if efficiency := config.get("label_efficiency"):
        args += light_efficiency(efficiency, tiny, tmp_path)
    if config.get("curves"):
        curve = tmp_path / "metrics.jsonl"
        curve.write_text('{"step": 0, "loss": 2.0}\n{"step": 1, "loss": 1.0}\n', encoding="utf-8")
        args += [f"--curves={json.dumps(dict.fromkeys(config['curves'], str(curve)))}"]
    ran = alan("evaluate", "--config", ROOT / name, "--out", out, *args)
    assert ran.code == 0, ran.err
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert results["title"] == config["title"]
    parts = {"segmentation", "views", "label_efficiency"}
    assert {part for part in parts if results.get(part)} == parts & set(config)
    if "label_efficiency" in config:
        assert not [note for note in results["label_efficiency"]["notes"] if not note["structure"]]  # none failed
    assert (out / "report.html").read_text(encoding="utf-8").startswith("<!")
    assert (out / "config.yaml").is_file()


@pytest.mark.parametrize("name", configs("search"))
def test_search(name, tiny, alan, tmp_path):
    """The space as it is shipped, then one trial of a light pair of it with the settings of the training."""
    config, out = read(name), tmp_path / "run"
    axes = {key: tuple(value) if isinstance(value, list) else value for key, value in config["space"].items()}
    space = SearchSpace(**axes).checked()
    if name == "search/ednas.yaml":
        assert space.size == 46 * 9 * 6 * 3 == 7452
    light = next(encoder for encoder in ("mobilenet_v2", "resnet18") if encoder in space.encoders)
    args = [f"--space.encoders=[{light}]", "--space.decoders=[unet]", "--space.batch_sizes=[2]"]
    args += [f"--data.stores={json.dumps([tiny.store('camus')])}", "--data.label_patients=null"]
    args += ["--training.epochs=1", "--study.val_every=1", "--training.num_workers=0"]
    ran = alan("search", "--config", ROOT / name, "--out", out, *args, "--study.n_trials=1")
    assert ran.code == 0, ran.err
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert [row["state"] for row in results["trials"]] == ["complete"], results["failed"]
    assert (out / "best.yaml").is_file()
    assert (out / "report.html").is_file()


@pytest.mark.parametrize("name", configs("active"))
def test_active(name, tiny, alan, tmp_path):
    """The network as it is shipped is built with its dropout; a light one of the same decoder takes the steps."""
    config, out = read(name), tmp_path / "run"
    network = config["training"]["network"]
    MonteCarloDropout(untrained_segmenter(NetworkSpec(**network), config["data"]["structures"]))
    light = "decoder_channels=[4,8,16]" if network["encoder"] is None else "encoder=mobilenet_v2"
    args = ["--data.store", tiny.store("camus"), f"--training.network.{light}", "--training.accelerator=cpu"]
    args += ["--loop.seeds=[0]", "--loop.initial=2", "--loop.per_phase=1", "--loop.phases=2", "--loop.passes=2"]
    ran = alan("active", "run", "--config", ROOT / name, "--out", out, *args, "--training.steps=1")
    assert ran.code == 0, ran.err
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert {row["function"] for row in results["curves"]} == set(config["loop"]["functions"])
    assert {row["n_labels"] for row in results["curves"]} == {2, 3}
    assert (out / "report.html").read_text(encoding="utf-8").startswith("<!")
