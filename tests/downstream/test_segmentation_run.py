"""``alan segment``: label maps at the original size, areas, resuming, networks and invalid input."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from alan.data.io.pictures import read_mask
from alan.data.preprocessing import Preprocessing
from alan.data.readers.classes import read_classes
from alan.data.readers.folder import FrameFolder
from alan.data.sample import Record, Sample
from alan.data.store.reader import FrameStore
from alan.downstream.run import run_segmentation
from alan.downstream.whitebox.several import load_white_boxes
from alan.errors import AlanWarning, SkippedError
from alan.supervised.segmenter import load_segmenter, save_segmenter
from alan.supervised.settings import NetworkSpec

from ..discs import untrained_segmenter

BOXES = ("lv", "myo", "la")


@pytest.fixture(scope="module")
def models(tiny, tmp_path_factory):
    """Options that name the tiny parcels and white boxes on them."""
    from alan.downstream.whitebox.run import run_naming

    out = tmp_path_factory.mktemp("models") / "named"
    run_naming(tiny.parcels(), tiny.store("camus"), str(out), share_above=0.02, views=["A4C"])
    return ["--parcels", tiny.parcels(), "--white_boxes", f"[{', '.join(str(out / f'{b}.json') for b in BOXES)}]"]


@pytest.fixture
def pictures(tiny, tmp_path):
    """Five pictures of several kinds and sizes: grey and RGB, PNG, JPEG and BMP, one in a folder of its own."""
    store, root = FrameStore(tiny.store("camus")), tmp_path / "pictures"
    (root / "more").mkdir(parents=True)
    kinds = {
        "a.png": (90, 120),
        "b.jpg": (112, 112),
        "c.bmp": (64, 48),
        "d.png": (200, 150),
        "more/e.jpeg": (70, 70),
    }
    for frame, (path, (height, width)) in zip(store.frames(range(0, 40, 8)), kinds.items(), strict=True):
        image = Image.fromarray(frame).resize((width, height))
        (image.convert("RGB") if path in ("a.png", "b.jpg") else image).save(root / path)
    return root


def label_of(path):
    with Image.open(path) as image:
        assert image.mode == "P"
        background, first = image.getpalette()[:3], image.getpalette()[3:6]
        assert background == [0, 0, 0]
        assert max(first) > 100  # a viewer shows more than black
        return np.array(image)


def test_a_folder_of_pictures_is_segmented(alan, models, pictures, tmp_path, listing):
    out = tmp_path / "run"
    args = ["segment", "--input", pictures, *models, "--out", out, "--spacing", "[0.5, 0.4]"]
    ran = alan(*args, "--batch_size", 2)
    assert ran.code == 0, ran.err
    names = ["a", "b", "c", "d", "more_e"]
    files = ["classes.csv", "config.yaml", "contact_sheet.png", "masks", "segments.csv"]
    assert listing(out) == sorted([*files, *(f"masks/{name}.png" for name in names)])
    table = pd.read_csv(out / "segments.csv")
    assert list(table.frame) == [name for name in names for _ in BOXES]
    assert list(table.structure) == list(BOXES) * 5
    boxes = load_white_boxes(models[1], models[3].strip("[]").split(", "))
    for name, path in zip(names, ("a.png", "b.jpg", "c.bmp", "d.png", "more/e.jpeg"), strict=True):
        with Image.open(pictures / path) as image:
            frame = np.array(image.convert("L"))
        small = Preprocessing(112).apply(Sample(Record(name, name), frame[None])).frames
        found, label = boxes.label(small), label_of(out / "masks" / f"{name}.png")
        np.testing.assert_array_equal(label, Preprocessing(112).restore(found.labels, frame.shape)[0])
        for value, (_, row) in enumerate(table[table.frame == name].iterrows(), 1):
            assert row.area_px == (label == value).sum()
            assert row.area_cm2 == pytest.approx(row.area_px * 0.5 * 0.4 / 100, abs=1e-4)
            assert (row.parcels, row["empty"]) == (found.parcels[0, value - 1], row.area_px == 0)
    assert table.area_px.sum() > 0
    classes = read_classes(out / "classes.csv")  # an archive of one's own can take the masks, colours and all
    for convert in (None, "RGB"):
        path = tmp_path / "edited.png"
        with Image.open(out / "masks" / "a.png") as image:
            (image.convert(convert) if convert else image).save(path)
        for value, mask in enumerate(classes.masks(read_mask(path), path).values(), 1):
            np.testing.assert_array_equal(mask, label_of(out / "masks" / "a.png") == value)
    with Image.open(out / "contact_sheet.png") as image:
        assert min(image.size) > 50

    (out / "masks" / "b.png").unlink()
    kept = (out / "masks" / "a.png").stat().st_mtime_ns
    Image.fromarray(np.zeros((30, 30), np.uint8)).save(pictures / "z.png")
    before = (out / "contact_sheet.png").read_bytes()
    again = alan(*args, "--sheet", 2)
    assert again.code == 0, again.err
    assert "4 of 6 frames are already done" in again.err
    assert (out / "masks" / "a.png").stat().st_mtime_ns == kept
    assert list(pd.read_csv(out / "segments.csv").frame.unique()) == [*names, "z"]
    assert (out / "contact_sheet.png").read_bytes() != before
    other = alan(*args, "--size", 96)
    assert (other.code, len(other.lines)) == (2, 1)
    assert "preprocessing.size" in other.err


def test_a_killed_run_is_resumed(alan, models, pictures, tmp_path, monkeypatch):
    whole, part = tmp_path / "whole", tmp_path / "part"
    args = ["segment", "--input", pictures, *models, "--batch_size", 1]
    assert alan(*args, "--out", whole).code == 0
    from alan.data.preprocessing import Preprocessing as Real

    calls, restore = [], Real.restore

    def killed(self, labels, shape, spacing=None):
        calls.append(shape)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return restore(self, labels, shape, spacing)

    with monkeypatch.context() as patch:
        patch.setattr(Real, "restore", killed)
        assert alan(*args, "--out", part).code == 130
    assert not (part / "segments.csv").exists()
    with (part / "segments.part.csv").open("a") as file:
        file.write("d,lv,17")  # a line that was cut off
    ran = alan(*args, "--out", part)
    assert "3 of 5 frames are already done" in ran.err
    for file in ("segments.csv", "masks/d.png", "contact_sheet.png"):
        assert (part / file).read_bytes() == (whole / file).read_bytes()
    assert not (part / "segments.part.csv").exists()


def test_a_store_is_segmented_with_sizes_and_spacing(tiny, alan, models, tmp_path):
    store, out = FrameStore(tiny.store("camus")), tmp_path / "run"
    args = ["segment", "--input", tiny.store("camus"), *models, "--split", "val", "--views", "[A4C]"]
    ran = alan(*args, "--frames", "annotated", "--sheet", 0, "--out", out)
    assert ran.code == 0, ran.err
    assert not (out / "contact_sheet.png").exists()
    table, first = pd.read_csv(out / "segments.csv"), store.select("val", ["A4C"])[0]
    assert table.frame[0] == f"{first.id}_{first.ed - first.start + 1:04d}"
    assert label_of(out / "masks" / f"{table.frame[0]}.png").shape == first.original_shape
    row = table.iloc[0]
    assert row.area_cm2 == pytest.approx(row.area_px * np.prod(first.spacing) / 100, abs=1e-4)


def network(folder):
    """An untrained network for two structures."""
    path = folder / "segmenter.safetensors"
    spec = NetworkSpec(decoder="unet_acdc", encoder=None, decoder_channels=(4, 8))
    save_segmenter(untrained_segmenter(spec, ["la", "lv"]), path)
    return path


def test_a_network_can_replace_white_boxes(alan, pictures, tmp_path):
    path, out = network(tmp_path), tmp_path / "run"
    args = ["segment", "--input", pictures, "--network", path, "--out", out]
    assert alan(*args, "--keep_aspect", "true").code == 0
    table = pd.read_csv(out / "segments.csv")
    assert list(table.structure[:2]) == ["la", "lv"]
    assert table.parcels.isna().all()
    assert table.area_cm2.isna().all()
    assert yaml.safe_load((out / "config.yaml").read_text())["inputs"]["model"] == load_segmenter(path).fingerprint
    # what is written may be used as masks of one's own data
    (out / "images").mkdir()
    for path in (out / "masks").iterdir():
        Image.fromarray(np.zeros(label_of(path).shape, np.uint8)).save(out / "images" / path.name)
    with pytest.warns(AlanWarning, match="a patient of its own"):
        sample = FrameFolder(out)[0]
    np.testing.assert_array_equal(sample.masks["lv"][0], label_of(out / "masks" / "a.png") == 2)


@pytest.mark.filterwarnings("always::alan.errors.AlanWarning")
def test_a_damaged_or_locked_picture_is_skipped_and_listed(alan, models, pictures, tmp_path, monkeypatch):
    (pictures / "b.jpg").write_bytes(b"no picture")
    (pictures / "dead.png").symlink_to("nowhere.png")
    (pictures / "dead.txt").symlink_to("nowhere.txt")
    ran = alan("segment", "--input", pictures, *models, "--out", tmp_path / "run")
    assert ran.code == 0, ran.err
    assert any("skipped 2 of 6 files" in line and "dead.png: a link" in line for line in ran.lines)
    assert "b" not in set(pd.read_csv(tmp_path / "run" / "segments.csv").frame)
    assert list(pd.read_csv(tmp_path / "run" / "failures.csv").file) == ["dead.png", "b"]
    with pytest.raises(SkippedError, match="skipped 2 of 6"):
        run_segmentation(str(pictures), str(tmp_path / "strict"), network=str(network(tmp_path)), strict=True)
    assert len(pd.read_csv(tmp_path / "strict" / "segments.csv")) == 4 * 2
    opened = Path.open

    def refuse(path, *args, **options):
        if path.name == "c.bmp":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)  # also for a picture that is already segmented
    run_segmentation(str(pictures), str(tmp_path / "strict"), network=str(network(tmp_path)), strict=False)
    assert list(pd.read_csv(tmp_path / "strict" / "failures.csv").file) == ["dead.png", "b", "c"]


def test_a_changed_picture_is_segmented_again(alan, models, pictures, tmp_path):
    out = tmp_path / "run"
    args = ["segment", "--input", pictures, *models, "--out", out, "--sheet", 0]
    assert alan(*args).code == 0
    before = pd.read_csv(out / "segments.csv").set_index("frame")
    Image.fromarray(np.zeros((90, 120), np.uint8)).save(pictures / "a.png")
    (out / "masks" / "c.png").write_bytes(b"damaged")
    again = alan(*args)
    assert again.code == 0, again.err
    assert "3 of 5 frames are already done" in again.err
    after = pd.read_csv(out / "segments.csv").set_index("frame")
    assert (after.loc["a", "area_px"] != before.loc["a", "area_px"]).any()
    pd.testing.assert_frame_equal(after.drop("a"), before.drop("a"))


def test_invalid_input_is_refused_and_leaves_no_files(tiny, alan, models, pictures, tmp_path):
    out, empty = tmp_path / "run", tmp_path / "empty"
    empty.mkdir()
    for wrong, message in (
        (["--input", empty], "alan frames"),
        (["--input", tmp_path / "nowhere"], "no such folder"),
        (["--input", "nowhere.h5"], "no such frame store"),
        (["--network", tiny.parcels()], "keep network, or"),
        (["--white_boxes", "[nowhere.json]"], "no such file"),
        (["--white_boxes", "[alan-sim-lv]"], "give the parcel model that it belongs to"),
        (["--white_boxes", "null"], "alan name"),
        (["--spacing", "[0.5]"], "give one size in mm, or two"),
        (["--spacing", "[0.5, -1]"], "two finite numbers above 0"),
        (["--batch_size", 0], "batch_size is 0"),
        (["--size", 0], "size is 0: give a whole number of at least 1"),
        (["--split", "test"], "split is 'test': it chooses frames of a store; leave it out for pictures"),
        (["--views", "[A4C]"], "views is ['A4C']: it chooses"),
        (["--frames", 3], "frames is 3: it chooses"),
        (["--input", tiny.store("camus"), "--keep_aspect", "true"], "keep_aspect is true: the frames of a store"),
        (["--wihte_boxes", "[a]"], "did you mean 'white_boxes'"),
    ):
        ran = alan("segment", "--input", pictures, *models, "--out", out, *wrong)
        assert (ran.code, len(ran.lines)) == (2, 1), ran.err
        assert message in ran.err
        assert not out.exists()
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(pictures / "a.bmp")
    ran = alan("segment", "--input", pictures, *models, "--out", out)
    assert ran.code == 2
    assert "rename one" in ran.err
