"""A folder of pictures, its class list, and the identification of patients."""

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alan.data.io.pictures import read_mask, read_picture
from alan.data.preprocessing import Preprocessing
from alan.data.readers.classes import read_classes
from alan.data.readers.folder import FrameFolder
from alan.data.readers.patients import identify
from alan.data.readers.registry import open_dataset
from alan.data.sample import Sample
from alan.data.store.writer import prepare
from alan.errors import AlanWarning, DataError, ParameterError, SplitLeakError


@pytest.fixture
def root(tmp_path, archives):
    return archives.folder(tmp_path / "frames")


def test_a_sample_refuses_an_unknown_structure(root):
    sample = FrameFolder(root)[0]
    with pytest.raises(DataError, match="unknown structure 'ventricle'"):
        Sample(sample.record, sample.frames, masks=sample.masks, mask_frames=sample.mask_frames)


@pytest.mark.parametrize("coloured", [False, True])
def test_masks_are_read_by_ids_and_colours(tmp_path, archives, coloured):
    data = FrameFolder(archives.folder(tmp_path, coloured=coloured))
    assert data.structures == ("ventricle", "valve", "lv")
    for seed, sample in enumerate(data):
        grey, positions = archives.folder_picture(seed)
        assert np.array_equal(sample.frames[0], grey)
        assert np.array_equal(sample.label_maps()[0], positions)
        assert np.array_equal(sample.masks["valve"][0], positions == 2)


def test_own_classes_survive_preprocessing_and_frame_store(tmp_path, root, archives):
    data = FrameFolder(root, split={"train": "p1", "test": "p2, p3"})
    store = prepare(data, tmp_path / "s.h5", Preprocessing(64, keep_aspect=False), workers=0, progress=False)
    assert store.structures == data.structures
    table = store.labelled("test", phases=None)
    _, positions = archives.folder_picture(0)
    for value, name in enumerate(store.structures, start=1):
        for label in table["label"]:
            assert np.array_equal(store.original_mask(int(label), name), positions == value)
            share = store.masks([int(label)], name).mean()
            assert share == pytest.approx((positions == value).mean(), rel=0.1)
    with pytest.raises(DataError, match="no masks of 'myo'"):
        store.masks([0], "myo")


def test_palette_masks_count_by_index(root, archives):
    path = root / "masks" / "p1_a4c_0001.png"
    palette = Image.open(path).convert("P")
    palette.putdata(list(archives.folder_picture(0)[1].ravel()))
    palette.putpalette([0, 0, 0, 9, 9, 9, 8, 8, 8, 7, 7, 7])
    palette.save(path)
    (root / "classes.csv").unlink()
    (root / "classes.yaml").write_text("- {name: a}\n- {name: background}\n- {name: b}\n- {name: c}\n")
    data = FrameFolder(root)
    assert np.array_equal(data[0].label_maps()[0], archives.folder_picture(0)[1])


def test_unknown_values_are_refused_by_name(root, archives):
    mask = np.zeros((30, 44), np.uint8)
    mask[0, :2] = 5, 9
    archives.picture(root / "masks" / "p1_a4c_0001.png", mask)
    archives.picture(root / "masks" / "p1_a4c_0002.png", np.full((30, 44, 3), 77, np.uint8))
    data = FrameFolder(root)
    with pytest.raises(
        DataError, match=r"p1_a4c_0001.png: unknown class id 5 and 1 more; .* 3 ventricle, 7 valve"
    ):
        data[0]
    with pytest.raises(DataError, match=r"p1_a4c_0002.png: unknown colour #4d4d4d; .* #ff0000 ventricle"):
        data[1]


def test_a_colour_mask_needs_colours_in_the_class_list(root, archives):
    (root / "classes.csv").write_text("name,id\nventricle,3\nvalve,7\nlv,200\n")
    positions = archives.folder_picture(0)[1]
    ids = np.array([0, 3, 7, 200], np.uint8)[positions]
    archives.picture(root / "masks" / "p1_a4c_0001.png", np.repeat(ids[..., None], 3, 2))
    assert np.array_equal(FrameFolder(root)[0].label_maps()[0], positions)  # grey values in a colour picture
    archives.picture(root / "masks" / "p1_a4c_0001.png", np.stack([ids, ids, 0 * ids], -1))
    with pytest.raises(DataError, match="has no colours: add a 'colour'"):
        FrameFolder(root)[0]


def test_a_mask_of_another_shape_is_refused(root, archives):
    archives.picture(root / "masks" / "p1_a4c_0001.png", np.zeros((44, 30), np.uint8))
    with pytest.raises(DataError, match="image and mask belong together"):
        FrameFolder(root)[0]


def test_an_image_without_a_mask_is_read_on_request_only(root):
    (root / "masks" / "p1_a4c_0002.png").unlink()
    with pytest.raises(DataError, match=r"1 of 4 images have no mask, .*'p1_a4c_0002'.*unlabelled"):
        FrameFolder(root)
    sample = FrameFolder(root, unlabelled=True)[1]
    assert sample.masks == {}
    assert len(sample.mask_frames) == 0


def test_a_mask_without_an_image_is_counted(root):
    (root / "images" / "p3_plax_0001.png").unlink()
    with pytest.warns(AlanWarning, match=r"skipped 1 masks without an image \(masks/p3_plax_0001.png\)"):
        assert len(FrameFolder(root)) == 3


def test_pictures_are_read_without_masks(root):
    (root / "masks").rename(root / "elsewhere")
    (root / "classes.csv").unlink()
    data = FrameFolder(root, unlabelled=True)
    assert data.structures == ()
    assert len(data) == 4


def test_masks_without_a_class_list_are_refused(root):
    (root / "classes.csv").rename(root / "mine.csv")
    with pytest.raises(DataError, match=r"0 class lists \(none\); one is needed"):
        FrameFolder(root)
    assert FrameFolder(root, classes="mine.csv").structures[0] == "ventricle"


def test_the_fingerprint_depends_on_the_class_list(root):
    before = FrameFolder(root).fingerprint()
    text = (root / "classes.csv").read_text()
    (root / "classes.csv").write_text(text.replace("valve", "leaf_"))  # same size
    assert FrameFolder(root).fingerprint() != before


def test_sixteen_bit_pictures_are_scaled_to_eight(root, archives):
    grey, _ = archives.folder_picture(0)
    Image.fromarray(grey.astype(np.uint16) * 257).save(root / "images" / "p1_a4c_0001.png")
    assert np.array_equal(FrameFolder(root)[0].frames[0], grey)


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_a_truncated_picture_is_refused(tmp_path, name):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    for read in (read_picture, read_mask):
        with pytest.raises(DataError, match=f"{name}: cannot be decoded"):
            read(tmp_path / name)


def test_the_manifest_gives_spacing_and_source(root):
    (root / "manifest.csv").write_text(
        "image,source,frame,time_s,row_mm,column_mm\np1_a4c_0001.png,a.avi,1,0,0.3,0.25\np1_a4c_0002.png,a.avi,2,,,\n"
    )
    first, second, *_ = FrameFolder(root)
    assert first.spacing == (0.3, 0.25)
    assert second.spacing is None
    assert first.record.attributes == {
        "source": "a.avi",
        "frame": 1.0,
        "time_s": 0.0,
        "row_mm": 0.3,
        "column_mm": 0.25,
    }


class TestClassList:
    YAML = """
classes:
- {name: background, id: 255}
- {name: a, id: 4, colour: "#0102ff"}
- {name: b, id: 0, color: [9, 8, 7]}
"""
    CSV = 'Name, ID, Color\nbackground,255,\na,4,1 2 255\nb,0,"9, 8, 7"\n'

    @pytest.mark.parametrize(("name", "text"), [("c.yaml", YAML), ("c.csv", CSV)])
    def test_every_form_of_class_list_is_read(self, tmp_path, name, text):
        (tmp_path / name).write_text(text)
        classes = read_classes(tmp_path / name)
        assert classes.names == ("a", "b")
        assert dict(classes.ids) == {"a": 4, "b": 0, "background": 255}
        assert dict(classes.colours) == {
            "a": 1 + 2 * 256 + 255 * 65536,
            "b": 9 + 8 * 256 + 7 * 65536,
            "background": 0,
        }

    def test_missing_ids_count_from_one(self, tmp_path):
        (tmp_path / "c.json").write_text(json.dumps([{"name": "a"}, {"name": "b"}]))
        assert dict(read_classes(tmp_path / "c.json").ids) == {"a": 1, "b": 2, "background": 0}

    @pytest.mark.parametrize(
        ("entries", "message"),
        [
            ([{"name": "a", "id": 0}], "id 0 is background but 'a' has it"),
            ([{"name": "a", "id": 1}, {"name": "b", "id": 1}], "id 1 is used by two"),
            ([{"name": "a"}, {"name": "a"}], "name 'a' is used by two"),
            ([{"name": "a", "id": -1}], "whole numbers"),
            ([{"name": "a", "id": 1.5}], "whole numbers"),
            ([{"id": 1}], "is not the name"),
            ([{"name": "../lv", "id": 1}], "has a slash or a control character; rename it"),
            ([{"name": "l\0v", "id": 1}], "has a slash or a control character; rename it"),
            ([{"name": "\ud800", "id": 1}], "has a slash or a control character; rename it"),
            ([{"name": "background"}], "no class except background"),
            ([{"name": "a", "colour": "#ff0000"}, {"name": "b"}], "'b' has no colour"),
            (
                [{"name": "a", "colour": "#ff0000"}, {"name": "b", "colour": "red"}],
                "colour '#ff0000' is used by two",
            ),
            ([{"name": "a", "colour": "reddish"}], "'reddish' is not a colour"),
            ([{"name": "a", "colour": [1, 2, 300]}], "is not a colour"),
            ([{"name": f"c{n}"} for n in range(256)], "256 classes"),
            ({"names": ["a"]}, "must be a list of entries"),
        ],
    )
    def test_wrong_class_lists_are_refused(self, tmp_path, entries, message):
        (tmp_path / "c.json").write_text(json.dumps(entries))
        with pytest.raises(DataError, match=message):
            read_classes(tmp_path / "c.json")

    def test_damaged_and_missing_class_lists_are_refused(self, tmp_path):
        (tmp_path / "c.yaml").write_text("- {name: [")
        with pytest.raises(DataError, match="not a class list"):
            read_classes(tmp_path / "c.yaml")
        with pytest.raises(DataError, match="no such class list"):
            read_classes(tmp_path / "d.yaml")


class TestIdentify:
    IDS = ("p1_A4C_1", "p1_A2C_2", "p2_A4C_1", "p2_A2C_x", "plain")

    def test_the_first_part_of_a_name_is_the_patient(self, tmp_path):
        assert [r.patient for r in identify(tmp_path, self.IDS)] == ["p1", "p1", "p2", "p2", "plain"]

    def test_a_rule_extracts_patient_and_view(self, tmp_path):
        rule = r"(?P<patient>p\d)_(?P<view>A\dC)_.*"
        records = identify(tmp_path, self.IDS[:4], patient=rule, split={"train": "p1", "test": "p2"})
        assert [(r.patient, r.view, r.split) for r in records] == [
            ("p1", "A4C", "train"),
            ("p1", "A2C", "train"),
            ("p2", "A4C", "test"),
            ("p2", "A2C", "test"),
        ]
        with pytest.raises(DataError, match=r"plain: .* does not match"):
            identify(tmp_path, self.IDS, patient=rule)

    @pytest.mark.parametrize(
        ("rule", "message"),
        [("(", "not a regular expression"), (".*", "needs"), ("(?P<patient>.*)(?P<age>)", "needs")],
    )
    def test_wrong_rules_are_refused(self, tmp_path, rule, message):
        with pytest.raises(ParameterError, match=message):
            identify(tmp_path, self.IDS, patient=rule)

    def test_an_unknown_view_is_refused(self, tmp_path):
        with pytest.raises(DataError, match="p1_A4C_1: unknown view 'A4': did you mean 'A4C'"):
            identify(tmp_path, self.IDS[:1], patient="(?P<patient>p1)_(?P<view>A4)C_1")

    def test_a_table_assigns_patients_and_splits(self, tmp_path):
        (tmp_path / "patients.csv").write_text("file,patient,split\np1_A4C_1.png,7,Training\np1_A2C_2,7,train\n")
        records = identify(tmp_path, self.IDS[:2])
        assert [(r.patient, r.split) for r in records] == [("7", "train")] * 2
        with pytest.raises(DataError, match="has no row for 'p2_A4C_1'"):
            identify(tmp_path, self.IDS)
        with pytest.raises(ParameterError, match="keep one"):
            identify(tmp_path, self.IDS, patient="(?P<patient>.*)")
        (tmp_path / "patients.csv").write_text("file,patient,split\np1_A4C_1,7,tset\n")
        with pytest.raises(DataError, match=r"unknown split 'tset'.*'test'"):
            identify(tmp_path, self.IDS[:1])

    def test_a_table_with_two_entries_for_a_picture_is_refused(self, tmp_path):
        """The last row would win, and a patient could be in two splits under two names."""
        table = tmp_path / "patients.csv"
        for second in ("p1_A4C_1", "p1_A4C_1.png", "p1/A4C_1.png"):
            table.write_text(f"file,patient\np1_A4C_1.png,7\n{second},8\n")
            with pytest.raises(DataError, match="two different rows for 'p1_A4C_1'"):
                identify(tmp_path, self.IDS[:1])
        table.write_text("file,patient\np1_A4C_1.png,7\np1_A4C_1.png,7\n")
        assert identify(tmp_path, self.IDS[:1])[0].patient == "7"
        table.write_text("file,patient\na.1,7\na.2,8\n")  # dots that begin no suffix
        assert [record.patient for record in identify(tmp_path, ["a.2", "a.1"])] == ["8", "7"]

    def test_a_table_that_leaks_is_refused(self, root):
        names = sorted(path.stem for path in (root / "images").iterdir())
        rows = [f"{name},p,{side}" for name, side in zip(names, ("train", "val", "val", "val"), strict=True)]
        (root / "patients.csv").write_text("\n".join(["file,patient,split", *rows]))
        with pytest.raises(SplitLeakError, match="'p' is in two splits"):
            FrameFolder(root)

    def test_a_drawn_split_keeps_patients_whole(self, tmp_path):
        ids = [f"p{n // 4}_{n}" for n in range(40)]
        drawn = [identify(tmp_path, ids, split={"train": 0.6, "val": 0.2, "test": 0.2}, seed=s) for s in (0, 0, 1)]
        sides = [{(r.patient, r.split) for r in records} for records in drawn]
        assert [len(pairs) for pairs in sides] == [10, 10, 10]
        assert sides[0] == sides[1] != sides[2]


def index_picture(positions, order, palette):
    """A palette picture whose entry k stands for the position ``order[k]``."""
    index = np.zeros_like(positions)
    for k, position in enumerate(order):
        index[positions == position] = k
    picture = Image.fromarray(index).convert("P")
    picture.putdata(list(index.ravel()))
    picture.putpalette([int(value) for k in order for value in palette[k]])
    return picture


class TestColours:
    COLOURS = ((0, 0, 0), (255, 0, 0), (0, 255, 0), (10, 20, 30))

    def test_a_palette_is_read_by_the_colours_of_the_class_list(self, root, archives):
        positions = archives.folder_picture(0)[1]
        index_picture(positions, (2, 0, 3, 1), self.COLOURS).save(root / "masks" / "p1_a4c_0001.png")
        assert np.array_equal(FrameFolder(root)[0].label_maps()[0], positions)
        other = ((0, 0, 0), (9, 9, 9), (0, 255, 0), (10, 20, 30))
        index_picture(positions, (2, 0, 3, 1), other).save(root / "masks" / "p1_a4c_0001.png")
        with pytest.raises(DataError, match=r"unknown colour #090909; .* remove the colours from the class list"):
            FrameFolder(root)[0]

    def test_a_palette_that_contradicts_itself_is_refused_without_colours(self, root, archives):
        (root / "classes.csv").write_text("name,id\nventricle,1\nvalve,2\nlv,3\n")
        positions, greys = archives.folder_picture(0)[1], [(k, k, k) for k in range(4)]
        path = root / "masks" / "p1_a4c_0001.png"
        index_picture(positions, (0, 1, 2, 3), greys).save(path)
        assert np.array_equal(FrameFolder(root)[0].label_maps()[0], positions)
        index_picture(positions, (2, 0, 3, 1), greys).save(path)
        with pytest.raises(DataError, match=r"both class ids, and they differ: save the mask as a grey picture"):
            FrameFolder(root)[0]
        index_picture(positions, (2, 0, 3, 1), [(0, 0, 0), (250, 9, 9), (9, 250, 9), (9, 9, 250)]).save(path)
        with pytest.raises(
            DataError, match=r"shows a class as black and the background in colour: add a 'colour'"
        ):
            FrameFolder(root)[0]

    def test_transparent_pixels_are_background(self, root, archives):
        positions = archives.folder_picture(0)[1]
        colours = np.array(self.COLOURS, np.uint8)[positions]
        alpha = np.where(positions > 0, 255, 0).astype(np.uint8)
        colours[positions == 0] = 255, 0, 0  # the colour of the ventricle, but transparent
        archives.picture(root / "masks" / "p1_a4c_0001.png", np.dstack([colours, alpha]))
        assert np.array_equal(FrameFolder(root)[0].label_maps()[0], positions)

    def test_smoothed_colours_are_refused_with_the_remedy(self, root, archives):
        noisy = np.random.default_rng(0).integers(0, 256, (30, 44, 3), np.uint8)
        archives.picture(root / "masks" / "p1_a4c_0001.png", noisy)
        with pytest.raises(DataError, match="save masks without smoothing, in a format without loss"):
            FrameFolder(root)[0]

    def test_masks_of_0_and_255_need_a_class_of_id_255(self, root, archives):
        (root / "classes.csv").write_text("name,id\nlv,1\n")
        mask = np.where(archives.folder_picture(0)[1] == 1, 255, 0).astype(np.uint8)
        archives.picture(root / "masks" / "p1_a4c_0001.png", mask)
        with pytest.raises(DataError, match="for masks of 0 and 255, give lv the id 255"):
            FrameFolder(root)[0]
        (root / "classes.csv").write_text("name,id\nlv,255\n")
        assert FrameFolder(root)[0].masks["lv"].sum() == 8 * 15


class TestNamesAndPlaces:
    def test_jpeg_masks_are_refused(self, root):
        path = root / "masks" / "p1_a4c_0001.png"
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
        message = r"skipped 1 files in masks/ that are not masks \(masks/p1_a4c_0001.jpg\): .* save masks as PNG"
        with pytest.warns(AlanWarning, match=message), pytest.raises(DataError, match="JPEG changes the ids"):
            FrameFolder(root)

    def test_two_masks_of_one_picture_are_refused(self, root):
        path = root / "masks" / "p1_a4c_0001.png"
        for other in (path.with_suffix(".bmp"), path.with_name("p1_a4c_0001_mask.png")):
            Image.open(path).save(other)
            with pytest.raises(DataError, match=r"p1_a4c_0001.* and .*p1_a4c_0001.*: keep one"):
                FrameFolder(root)
            other.unlink()

    @pytest.mark.parametrize("end", ["_mask", "_gt", "-label", "_Segmentation"])
    def test_suffixes_of_mask_names_are_accepted(self, root, archives, end):
        for path in list((root / "masks").iterdir()):
            path.rename(path.with_name(f"{path.stem}{end}.png"))
        assert np.array_equal(FrameFolder(root)[0].label_maps()[0], archives.folder_picture(0)[1])

    def test_masks_among_the_pictures_are_refused(self, root):
        Image.open(root / "masks" / "p1_a4c_0001.png").save(root / "images" / "p1_a4c_0001_gt.png")
        with pytest.raises(
            DataError, match=r"p1_a4c_0001_gt.png: looks like the mask of p1_a4c_0001.png: move it"
        ):
            FrameFolder(root, unlabelled=True)

    def test_folders_of_patients_and_linked_folders_are_read(self, root, archives, tmp_path):
        for part in ("images", "masks"):
            for name in ("p1", "p2", "p3"):
                home = tmp_path / "disk" / part / name if name == "p2" else root / part / name
                home.mkdir(parents=True)
                for path in list((root / part).glob(f"{name}_*.png")):
                    path.rename(home / path.name.removeprefix(f"{name}_"))
                if name == "p2":
                    (root / part / name).symlink_to(home)
        data = FrameFolder(root)
        assert [record.id for record in data.records] == [
            "p1_a4c_0001", "p1_a4c_0002", "p2_a4c_0001", "p3_plax_0001",
        ]  # fmt: skip
        assert [record.patient for record in data.records] == ["p1", "p1", "p2", "p3"]
        for seed, sample in enumerate(data):
            assert np.array_equal(sample.label_maps()[0], archives.folder_picture(seed)[1])

    def test_names_in_both_unicode_forms_match(self, root, archives):
        for part, form in (("images", "NFD"), ("masks", "NFC")):
            path = root / part / "p1_a4c_0001.png"
            path.rename(path.with_name(unicodedata.normalize(form, "p2_é_ö.png")))
        data = FrameFolder(root)
        place = [record.id for record in data.records].index("p2_é_ö")
        assert np.array_equal(data[place].label_maps()[0], archives.folder_picture(0)[1])

    def test_a_root_one_level_off_is_refused_with_the_right_one(self, root):
        (root / "images" / "p3_plax_0001.png").rename(root / "images" / "p2_a4c_0002.png")
        (root / "masks" / "p3_plax_0001.png").rename(root / "masks" / "p2_a4c_0002.png")
        for wrong in (root.parent, root / "images"):
            with pytest.raises(DataError, match=f"did you mean {root}, which can be opened"):
                open_dataset("folder", wrong)


class TestManifest:
    HEAD = "image,source,frame,time_s,row_mm,column_mm,height,width,patient\n"

    @pytest.mark.parametrize(
        ("size", "spacing"),
        [("30,44", (0.3, 0.25)), ("60,88", (0.6, 0.5)), ("61,88", (0.61, 0.5)), (",", (0.3, 0.25))],
    )
    def test_the_pixel_size_follows_a_still_that_was_resized(self, root, size, spacing):
        (root / "manifest.csv").write_text(f"{self.HEAD}p1_a4c_0001.png,a.avi,1,0,0.3,0.25,{size},\n")
        assert FrameFolder(root)[0].spacing == pytest.approx(spacing)

    def test_the_pixel_size_of_a_cropped_still_is_unknown(self, root):
        (root / "manifest.csv").write_text(f"{self.HEAD}p1_a4c_0001.png,a.avi,1,0,0.3,0.25,40,44,\n")
        data = FrameFolder(root)
        with pytest.warns(AlanWarning, match=r"p1_a4c_0001.png: is 30 x 44 pixels, another aspect"):
            assert data[0].spacing is None
        assert data.skipped == {"pixel sizes lost with cropped or stretched stills": 1}

    @pytest.mark.parametrize("sizes", ["1e9,0.25,30,44", "0.3,-0.25,30,44", "0.3,0,30,44", "0.3,0.25,0,44"])
    def test_sizes_that_no_picture_has_are_refused(self, root, sizes):
        (root / "manifest.csv").write_text(f"{self.HEAD}p1_a4c_0001.png,a.avi,1,0,{sizes},\n")
        with pytest.raises(
            DataError, match=r"manifest.csv: p1_a4c_0001.png: \w+ is .*: give \S+ to \S+, or nothing"
        ):
            FrameFolder(root)

    def test_pseudonyms_of_the_manifest_are_the_patients(self, root):
        names = [path.name for path in sorted((root / "images").iterdir())]
        rows = [f"{name},x,1,,,,,,{key}" for name, key in zip(names, ("k1", "k2", "k1", "k2"), strict=True)]
        (root / "manifest.csv").write_text(self.HEAD + "\n".join(rows))
        data = FrameFolder(root, split={"train": 0.5, "test": 0.5})
        assert [record.patient for record in data.records] == ["k1", "k2", "k1", "k2"]
        assert all("patient" not in record.attributes for record in data.records)


def test_one_patient_per_picture_gives_a_warning(tmp_path):
    with pytest.warns(AlanWarning, match=r"each of 3 pictures counts as a patient of its own.*add patients.csv"):
        identify(tmp_path, ["p1-a", "p1-b", "p2-a"])
    identify(tmp_path, ["p1-a"])
    identify(tmp_path, ["p1-a", "p1-b"], patient="(?P<patient>.*)")  # as the user has chosen


def test_folders_of_other_names_are_refused_with_the_right_one(root):
    (root / "masks").rename(root / "Labels")
    with pytest.raises(DataError, match="rename the folder Labels to masks, or set unlabelled"):
        FrameFolder(root)
    (root / "images").rename(root / "Images")
    with pytest.raises(DataError, match=r"no picture in images/.*; rename the folder Images to images"):
        FrameFolder(root)


def test_a_picture_that_cannot_be_opened_is_skipped_by_prepare(tmp_path, root, monkeypatch):
    opened, first = Path.open, sorted((root / "images").iterdir())[0]

    def refuse(path, *args, **options):
        if path == first:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.warns(AlanWarning, match=r"skipped 1 of 4 files.*cannot be read \(Permission denied\)"):
        prepare(FrameFolder(root), tmp_path / "a.h5", Preprocessing(16), workers=0, progress=False)
