"""Bad input through the command line: one clear line, exit code 2, no partial output."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from alan.backbone.checkpoint import ENTRY
from alan.cache.run import write_cache
from alan.cli.prepare import prepare as prepare_store
from alan.data.store.reader import FrameStore

CONFIGS = Path(__file__).parents[2] / "configs"
#: Name to (what is made ready and given to the command line, what the line says). The words are the value that is
#: wrong and the remedy.
CASES = {}


def case(*words):
    """Register a function of the tiny data and a folder; it returns the command line without --out."""

    def register(function):
        CASES[function.__name__] = (function, words)
        return function

    return register


def copy(tiny, layout, folder):
    return Path(shutil.copytree(tiny.archive(layout), folder / layout))


def prepare(kind, root, *more):
    return ["prepare", "--kind", kind, "--root", root, "--workers", 0, *more]


def fit(kind, tiny, *more, **data):
    """A shipped training on tiny data, with options added."""
    options = {"stores": [tiny.store("camus")], "batch_size": 2, **data}
    args = [f"--data.init_args.{name}={value}" for name, value in options.items()]
    name = {"dino": "dino/tiny_demo.yaml", "raptor": "raptor/raptor_camus.yaml"}[kind]
    backbone = [f"--model.init_args.backbone={tiny.backbone()}"] if kind == "raptor" else []
    trainer = ["--trainer.max_steps=1", "--trainer.log_every_n_steps=1", "--trainer.enable_progress_bar=false"]
    return ["fit", "--config", CONFIGS / name, *args, *trainer, *backbone, *more]


def cache(tiny, *more):
    return ["cache", "--store", tiny.store("camus"), "--backbone", tiny.backbone(), "--accelerator", "cpu", *more]


def segment(tiny, **changes):
    protocol = {"store": tiny.store("camus"), "parcels": {"RAPTOR": tiny.parcels()}, "kmeans_frames": 8, **changes}
    return ["evaluate", f"--segmentation={json.dumps(protocol)}"]


def views(tiny, **changes):
    protocol = {"store": tiny.store("tmed"), "backbone": tiny.backbone(), **changes}
    return ["evaluate", f"--views={json.dumps(protocol)}"]


# A missing root or column


@case("nowhere", "no such folder")
def missing_root(tiny, folder):
    return prepare("camus", folder / "nowhere")


@case("nowhere.h5", "write it with `alan prepare`")
def missing_store(tiny, folder):
    return fit("dino", tiny, stores=[str(folder / "nowhere.h5")])


@case("FileList.csv", "column 'Split' is missing", "separated by a comma, are: EDV, EF, ")
def missing_column_echonet(tiny, folder):
    root = copy(tiny, "echonet", folder)
    table = pd.read_csv(root / "FileList.csv")
    table.drop(columns="Split").to_csv(root / "FileList.csv", index=False)
    return prepare("echonet", root)


@case("column 'view_label' is missing", "did you mean 'viewlabel'")
def missing_column_tmed(tiny, folder):
    root = copy(tiny, "tmed", folder)
    (path,) = root.glob("*.csv")
    pd.read_csv(path).rename(columns={"view_label": "viewlabel"}).to_csv(path, index=False)
    return prepare("tmed", root)


# Pictures that cannot be read


@case(".avi", "none of 8 samples can be used")
def no_video_can_be_decoded(tiny, folder):
    root = copy(tiny, "echonet", folder)
    for path in (root / "Videos").iterdir():
        path.write_bytes(b"not a video")
    return prepare("echonet", root)


@case("(32, 32) pixels", "(64, 64)", "check that image and mask belong together")
def masks_of_another_shape(tiny, folder):
    root = copy(tiny, "camus", folder)
    for path in root.rglob("*_half_sequence_gt.nii.gz"):
        sitk.WriteImage(sitk.GetImageFromArray(np.ones((4, 32, 32), np.uint8)), str(path))
    return prepare("camus", root)


# Splits


@case("split 'test' is empty", "900-999")
def empty_split(tiny, folder):
    split = {"train": "1-8", "test": "900-999"}
    return prepare("camus", tiny.archive("camus"), f"--split={json.dumps(split)}")


@case("split 'val' is empty", "it holds test: 8, train: 8")
def empty_split_fit(tiny, folder):
    """A store without a validation split."""
    split, out = folder / "split.yaml", folder / "store.h5"
    split.write_text("train: 1-4\ntest: 5-8\n", encoding="utf-8")
    prepare_store("camus", tiny.archive("camus"), str(out), split=str(split), workers=0)
    return fit("dino", tiny, stores=[str(out)], split="val")


@case("'patient0003' is in two splits, 'train' and 'test'")
def shared_patient(tiny, folder):
    split = {"train": "1-3", "test": "3-8"}
    return prepare("camus", tiny.archive("camus"), f"--split={json.dumps(split)}")


@case("is in two splits", "put all samples of a patient into one split")
def shared_patient_tmed(tiny, folder):
    root = copy(tiny, "tmed", folder)
    (path,) = root.glob("*.csv")
    table = pd.read_csv(path)
    table.loc[0, "view_classifier_split"] = "test" if table.view_classifier_split[0] == "train" else "train"
    table.to_csv(path, index=False)
    return prepare("tmed", root)


@case("label_split and test_split are both 'test'", "give each its own split")
def shared_patient_evaluate(tiny, folder):
    return segment(tiny, label_split="test")


# Values out of bounds


@case("n_parcels", "1", "2")
def one_parcel(tiny, folder):
    return fit("raptor", tiny, "--model.init_args.n_parcels=1")


@case("kmeans[0] is 1", "at least 2")
def one_cluster(tiny, folder):
    return segment(tiny, kmeans=[1])


@case("batch_size is 1", "at least 2")
def one_sequence_a_batch(tiny, folder):
    return fit("raptor", tiny, batch_size=1)


@case("image size 60 is not a multiple of the patch size 8", "use 56 or 64")
def image_size_of_the_network(tiny, folder):
    return fit("dino", tiny, "--model.init_args.network.image_size=60")


@case("local_size 30 is not a multiple of the patch size 8", "use 24 or 32")
def image_size_of_the_crops(tiny, folder):
    return fit("dino", tiny, "--model.init_args.crops.local_size=30")


@case("image size 60 is not a multiple of the patch size 8", "use 56 or 64")
def image_size_of_the_features(tiny, folder):
    return cache(tiny, "--input_size", 60)


# Checkpoints


def truncated(source, target):
    target.write_bytes(Path(source).read_bytes()[:2000])
    return target


def pickled(target):
    torch.save({"teacher": {"cls_token": CASES.__len__, "harmless": os.getcwd}}, target)
    return target


@case("resnet.pth", "another architecture", "'conv1.weight' is not part of any known backbone")
def another_architecture(tiny, folder):
    torch.save({"conv1.weight": torch.zeros(4, 3, 7, 7)}, folder / "resnet.pth")
    return cache(tiny, "--backbone", folder / "resnet.pth")


@case("resnet18", "another architecture", "choose a vision transformer")
def another_architecture_by_name(tiny, folder):
    return fit("raptor", tiny, "--model.init_args.backbone=resnet18")


@case("wide.safetensors", "another architecture", "'norm.weight' has the shape (8,)")
def another_shape(tiny, folder):
    with safe_open(tiny.backbone(), framework="pt") as file:
        entry = json.loads(file.metadata()[ENTRY])
    tensors = {**load_file(tiny.backbone()), "norm.weight": torch.zeros(8)}
    save_file(tensors, folder / "wide.safetensors", {ENTRY: json.dumps({**entry, "sha256": ""})})
    return views(tiny, backbone=str(folder / "wide.safetensors"))


@case("cut.safetensors", "truncated", "export it again")
def truncated_backbone(tiny, folder):
    return cache(tiny, "--backbone", truncated(tiny.backbone(), folder / "cut.safetensors"))


@case("cut.pth", "truncated", "export it again")
def truncated_pth(tiny, folder):
    torch.save(load_file(tiny.backbone()), folder / "whole.pth")
    return views(tiny, backbone=str(truncated(folder / "whole.pth", folder / "cut.pth")))


@case("cut.safetensors", "truncated", "export it again")
def truncated_parcels(tiny, folder):
    return segment(tiny, parcels={"RAPTOR": str(truncated(tiny.parcels(), folder / "cut.safetensors"))})


@case("pickle.pth", "not a file of plain tensors", "could run code")
def pickle_as_backbone(tiny, folder):
    return fit("raptor", tiny, f"--model.init_args.backbone={pickled(folder / 'pickle.pth')}")


@case("pickle.ckpt", "not a file of plain tensors", "could run code")
def pickle_as_parcels(tiny, folder):
    return segment(tiny, parcels={"RAPTOR": str(pickled(folder / "pickle.ckpt"))})


@case("pickle.ckpt", "not a file of plain tensors", "could run code")
def pickle_to_go_on_from(tiny, folder):
    return fit("dino", tiny, "--ckpt_path", pickled(folder / "pickle.ckpt"))


@case("nowhere.ckpt", "no such file")
def missing_checkpoint_to_go_on_from(tiny, folder):
    return fit("dino", tiny, "--ckpt_path", folder / "nowhere.ckpt")


# Caches


@case("was written with store", "given store", "write it again with `alan cache`")
def cache_of_another_store(tiny, folder):
    out = folder / "tokens.h5"
    write_cache(tiny.store("tmed"), tiny.backbone(), str(out), features=["tokens"], accelerator="cpu")
    return tokens(tiny, out)


@case("trained on the backbone", "given the backbone", "same weights")
def cache_of_another_backbone(tiny, folder):
    out = folder / "tokens.h5"
    write_cache(tiny.store("camus"), tiny.backbone(1), str(out), features=["tokens"], accelerator="cpu")
    return tokens(tiny, out)


def tokens(tiny, path):
    """RAPTOR from a cache."""
    settings = {"cache": str(path), "store": tiny.store("camus"), "n_frames": 3, "batch_size": 2}
    config = path.with_suffix(".yaml")
    model = {"class_path": "alan.parcels.RaptorModule", "init_args": {"backbone": tiny.backbone()}}
    data = {"class_path": "alan.cache.TokenSequenceDataModule", "init_args": settings}
    trainer = {"max_steps": 1, "accelerator": "cpu", "enable_progress_bar": False}
    config.write_text(yaml.safe_dump({"model": model, "data": data, "trainer": trainer}), encoding="utf-8")
    return ["fit", "--config", config]


# Misspelt keys


def respelt(folder, config, old, new):
    text = (CONFIGS / config).read_text(encoding="utf-8")
    respelt = re.sub(rf"^( *){old}:", rf"\1{new}:", text, count=1, flags=re.MULTILINE)
    assert respelt != text
    (folder / "config.yaml").write_text(respelt, encoding="utf-8")
    return ["--config", folder / "config.yaml"]


def train(tiny, config):
    return ["fit", *config, f"--data.stores=[{tiny.store('camus')}]"]


@case("'teacher_temprature' is not known", "did you mean 'teacher_temperature'?")
def misspelt_in_a_module(tiny, folder):
    return train(tiny, respelt(folder, "dino/vits4_echonet.yaml", "teacher_temperature", "teacher_temprature"))


@case("'patchsize' is not known", "did you mean 'patch_size'?")
def misspelt_in_a_network(tiny, folder):
    return train(tiny, respelt(folder, "dino/tiny_demo.yaml", "patch_size", "patchsize"))


@case("'n_frame' is not known", "did you mean 'n_frames'?")
def misspelt_in_the_base_of_a_class(tiny, folder):
    config, store = respelt(folder, "raptor/raptor_demo.yaml", "n_frames", "n_frame"), tiny.store("camus")
    inputs = {"data.store": store, "data.cache": store, "model.backbone": tiny.backbone()}
    return ["fit", *config, *(f"--{name}={path}" for name, path in inputs.items())]


@case("'trainer.max_step' is not known", "did you mean 'max_steps'?")
def misspelt_in_the_trainer(tiny, folder):
    config, store = respelt(folder, "raptor/raptor_demo.yaml", "max_steps", "max_step"), tiny.store("camus")
    inputs = {"data.store": store, "data.cache": store, "model.backbone": tiny.backbone()}
    return ["fit", *config, *(f"--{name}={path}" for name, path in inputs.items())]


@case("'viewz' is not known", "did you mean 'views'?")
def misspelt_in_prepare(tiny, folder):
    return ["prepare", *respelt(folder, "prepare/camus_a4c.yaml", "views", "viewz")]


@case("'feautres' is not known", "did you mean 'features'?")
def misspelt_in_cache(tiny, folder):
    return ["cache", *respelt(folder, "cache/tokens.yaml", "features", "feautres")]


@case("'structurs' is not known", "did you mean 'structures'?")
def misspelt_in_evaluate(tiny, folder):
    return ["evaluate", *respelt(folder, "evaluate/camus.yaml", "structures", "structurs")]


@case("unlabelled is maybe", "give true or false")
def a_word_for_a_switch_of_a_reader(tiny, folder):
    return prepare("folder", stills(folder / "mine" / "images").parent, "--options.unlabelled", "maybe")


@case("patient is 5", "give a text")
def a_number_for_a_rule_of_a_reader(tiny, folder):
    return prepare("folder", stills(folder / "mine" / "images").parent, "--options.patient", 5)


@case("seed is -1", "give a whole number from 0 to")
def negative_seed_of_a_reader(tiny, folder):
    return prepare("folder", stills(folder / "mine" / "images").parent, "--options.seed", -1)


@case("seed is -1", "give a whole number from 0 to")
def negative_seed_of_a_protocol(tiny, folder):
    return segment(tiny, seed=-1)


@case("move the pictures of the folder itself into a folder images in it")
def pictures_beside_images(tiny, folder):
    return prepare("folder", stills(folder / "mine"))


@case("loop.tif", "holds 3 pages", "alan frames")
def a_stack_for_a_picture(tiny, folder):
    pages = [Image.fromarray(np.full((32, 32), grey, np.uint8)) for grey in (10, 20, 30)]
    pages[0].save(folder / "loop.tif", save_all=True, append_images=pages[1:])
    return ["segment", "--input", folder]


@case("a_1.png: is a file", "give a folder of pictures")
def one_picture_for_a_folder(tiny, folder):
    return ["segment", "--input", stills(folder / "mine") / "a_1.png"]


@case("list.json: not a fitted model")
def another_json_as_a_white_box(tiny, folder):
    (folder / "list.json").write_text("[1]", encoding="utf-8")
    return ["segment", "--input", stills(folder / "mine"), "--white_boxes", f"[{folder / 'list.json'}]"]


def stills(folder):
    folder.mkdir(parents=True)
    Image.fromarray(np.full((40, 50), 7, np.uint8)).save(folder / "a_1.png")
    return folder


@case("batch_size is 0", "at least 1")
def no_frame_a_batch(tiny, folder):
    return ["parcels", "--store", tiny.store("camus"), "--backbone", tiny.backbone(), "--batch_size", 0]


@case("batch_size is 0", "give a whole number of at least 1")
def no_frame_a_batch_of_an_ensemble(tiny, folder):
    return ["ensemble", "--store", tiny.store("camus"), "--members", '{"a": "a", "b": "b"}', "--batch_size", 0]


@case("seed_everything is -3", "give 0 to")
def negative_seed(tiny, folder):
    return fit("dino", tiny, "--seed_everything=-3")


@case("give a whole number", "many")
def a_word_for_a_number(tiny, folder):
    return fit("dino", tiny, "--model.init_args.outputs=many")


#: No machine has both.
ABSENT = "cuda" if torch.backends.mps.is_available() else "mps"


@case("not available", ABSENT, "Give other --trainer options")
def an_accelerator_that_is_not_there(tiny, folder):
    return fit("dino", tiny, f"--trainer.accelerator={ABSENT}")


@case("not available", ABSENT)
def an_accelerator_that_is_not_there_for_a_cache(tiny, folder):
    return cache(tiny, "--accelerator", ABSENT)


@case("torch_xla", "Give other --trainer options")
def an_accelerator_whose_library_is_not_installed(tiny, folder):
    return fit("dino", tiny, "--trainer.accelerator=tpu")


@case("int > 0", "Give other --trainer options")
def devices_that_are_no_number(tiny, folder):
    return fit("dino", tiny, "--trainer.accelerator=cpu", "--trainer.devices=x")


@case("invalid accelerator name", "gpuu")
def an_accelerator_that_does_not_exist(tiny, folder):
    return fit("dino", tiny, "--trainer.accelerator=gpuu")


@case("invalid accelerator name", "accelerator='gpuu'", "take auto, or cpu")
def an_accelerator_that_does_not_exist_for_a_cache(tiny, folder):
    return cache(tiny, "--accelerator", "gpuu")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("always::alan.errors.AlanWarning")
def test_bad_input_is_one_line(name, tiny, alan, listing, tmp_path):
    function, words = CASES[name]
    ready, work = tmp_path / "ready", tmp_path / "work"
    ready.mkdir()
    work.mkdir()
    args = function(tiny, ready)
    before = listing(tmp_path)
    ran = alan(*args, "--out", work / ("out.h5" if args[0] == "prepare" else "out"))
    assert ran.code == 2, ran.err
    errors = [line for line in ran.lines if line.startswith("alan: error: ")]
    assert len(errors) == 1, ran.err
    assert ran.lines[-1] == errors[0]
    assert "Traceback" not in ran.err
    for word in words:
        assert word.lower() in errors[0].lower()
    assert listing(tmp_path) == before


@pytest.mark.parametrize("verb", ["prepare", "cache"])
def test_a_folder_in_place_of_a_file_is_refused(verb, tiny, alan, listing, tmp_path):
    args = cache(tiny) if verb == "cache" else prepare("camus", tiny.archive("camus"))
    ran = alan(*args, "--out", tmp_path)
    assert ran.code == 2
    assert f"{tmp_path}: is a folder; give the path of a file" in ran.lines[-1]
    assert not listing(tmp_path)


def test_a_store_without_the_suffix_of_a_store_is_refused(tiny, alan, listing, tmp_path):
    ran = alan(*prepare("camus", tiny.archive("camus")), "--out", tmp_path / "store.txt")
    assert ran.code == 2
    assert "store.txt: give a name that ends in .h5" in ran.lines[-1]
    assert not listing(tmp_path)


def test_frames_too_small_to_simulate_leave_no_files(alan, listing, tmp_path):
    ran = alan("simulate", "--out", tmp_path / "sim", "--layout", "camus", "--n_patients", 3, "--size", 4)
    assert ran.code == 2
    assert "give sides from 32 to 1024 pixels" in ran.lines[-1]
    assert not listing(tmp_path)


# Of an archive, what cannot be decoded is skipped and counted


@pytest.mark.filterwarnings("always::alan.errors.AlanWarning")
def test_a_video_that_cannot_be_decoded_is_skipped_and_counted(tiny, alan, tmp_path):
    root, out = copy(tiny, "echonet", tmp_path), tmp_path / "store.h5"
    path = min((root / "Videos").iterdir())
    path.write_bytes(path.read_bytes()[:300])
    ran = alan(*prepare("echonet", root), "--out", out)
    assert ran.code == 0, ran.err
    (note,) = [line for line in ran.lines if line.startswith("alan: note: ")]
    assert "skipped 1 of 8 files" in note
    assert path.name in note
    store = FrameStore(out)
    assert len(store.sequences) == 7
    assert store.skipped == {"samples that could not be decoded": 1}
    assert path.stem not in {s.id for s in store.sequences}


@pytest.mark.filterwarnings("always::alan.errors.AlanWarning")
def test_a_mask_of_another_shape_is_skipped_and_counted(tiny, alan, tmp_path):
    root, out = copy(tiny, "camus", tmp_path), tmp_path / "store.h5"
    path = min(root.rglob("*_half_sequence_gt.nii.gz"))
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((4, 32, 32), np.uint8)), str(path))
    ran = alan(*prepare("camus", root), "--out", out)
    assert ran.code == 0, ran.err
    assert any(path.name in line for line in ran.lines if line.startswith("alan: note: "))
    assert FrameStore(out).skipped == {"samples that could not be decoded": 1}


# A full disk


@pytest.fixture
def small_disk(tmp_path):
    """``small_disk(megabytes)`` mounts a disk of that size or resizes it, or skips the test."""
    folder = tmp_path / "disk"

    def mount(megabytes):
        again = "remount," if folder.is_dir() else ""
        folder.mkdir(exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"{again}size={megabytes}m", "tmpfs", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("there is no mount command")
        if done.returncode:
            pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
        return folder

    yield mount
    if os.path.ismount(folder):
        subprocess.run(["umount", str(folder)], check=True)


def check_full(ran):
    assert ran.code == 2, ran.err
    (error,) = [line for line in ran.lines if line.startswith("alan: error: ")]
    assert ran.lines[-1] == error
    assert "Traceback" not in ran.err
    return error


def fill(folder, leave):
    """Fill the disk up to the given number of free bytes."""
    free = shutil.disk_usage(folder).free
    (folder / "filler").write_bytes(bytes(max(0, free - leave)))


@pytest.mark.parametrize("leave", [0, 40_000, 500_000])
def test_a_full_disk_during_prepare_is_one_line(leave, tiny, alan, small_disk, listing):
    """No room at all, for a few samples, and for all samples but not for the store."""
    disk = small_disk(3)
    fill(disk, leave)
    args = (*prepare("camus", tiny.archive("camus")), "--out", disk / "store.h5")
    error = check_full(alan(*args))
    assert "no space" in error
    assert "store.h5" in error
    assert set(listing(disk)) <= {"filler", "store.h5.part"}
    (disk / "filler").unlink()
    small_disk(20)
    assert alan(*args).code == 0
    assert listing(disk) == ["store.h5"]


def test_a_full_disk_at_a_checkpoint_is_one_line(tiny, alan, small_disk, listing):
    """The second checkpoint does not fit beside the first, which is kept; with more room the run goes on."""
    disk = small_disk(3)
    small = {"network.depth": 1, "network.dim": 96, "outputs": 64, "hidden": 64, "bottleneck": 16}
    more = [f"--model.init_args.{name}={value}" for name, value in small.items()]
    args = [*fit("dino", tiny, *more), "--checkpoint_every", 1, "--trainer.max_steps=3", "--out", disk / "run"]
    error = check_full(alan(*args))
    assert "no space left on disk" in error
    assert "last.ckpt" in error
    assert listing(disk / "run") == ["checkpoints", "checkpoints/last.ckpt", "config.yaml", "metrics.jsonl"]
    assert torch.load(disk / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 1
    small_disk(20)
    assert alan(*args).code == 0
    assert (disk / "run" / "backbone.safetensors").is_file()
    assert torch.load(disk / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 3


def test_a_full_disk_at_the_start_of_a_run_is_one_line(tiny, alan, small_disk, listing):
    disk = small_disk(3)
    fill(disk, 0)
    error = check_full(alan(*fit("raptor", tiny), "--out", disk / "run"))
    assert "no space left on disk" in error
    assert str(disk / "run") in error
    assert not [name for name in listing(disk / "run") if (disk / "run" / name).is_file()]


@pytest.mark.parametrize("leave", [0, 20_000, 40_960])
def test_a_full_disk_during_cache_is_one_line(leave, tiny, alan, small_disk, listing):
    disk = small_disk(3)
    fill(disk, leave)
    error = check_full(alan(*cache(tiny), "--out", disk / "cache.h5"))
    assert "MB are free" in error or "free some, run again" in error  # without room for the lock
    assert listing(disk) == ["filler"]


@pytest.mark.parametrize("leave", [0, 60_000, 200_000])
def test_a_full_disk_during_evaluate_is_one_line(leave, tiny, alan, small_disk, listing):
    """No room at all, for the parcel maps, and for the results but not the report."""
    disk = small_disk(3)
    fill(disk, leave)
    args = (*segment(tiny, kmeans=[], rules=["greedy"], structures=["lv"]), "--out", disk / "run")
    error = check_full(alan(*args))
    assert "no space left on disk" in error
    assert str(disk / "run") in error
    assert not [name for name in listing(disk) if name.endswith((".part", "report.html"))]
    (disk / "filler").unlink()
    assert alan(*args).code == 0
    assert (disk / "run" / "report.html").is_file()


def test_a_full_disk_during_report_is_one_line(tiny, alan, small_disk, listing):
    disk = small_disk(3)
    assert alan(*views(tiny, pixels=False, random_vit=False), "--out", disk / "run").code == 0
    before = (disk / "run" / "report.html").read_bytes()
    fill(disk, 0)
    error = check_full(alan("report", "--run", disk / "run"))
    assert "no space left on disk" in error
    assert (disk / "run" / "report.html").read_bytes() == before
    assert not [name for name in listing(disk) if name.endswith(".part")]


def test_a_full_disk_during_simulate_is_one_line(alan, small_disk):
    disk = small_disk(1)
    fill(disk, 200_000)
    error = check_full(alan("simulate", "--out", disk / "archive", "--n_patients", 20))
    assert "free space and run again" in error
