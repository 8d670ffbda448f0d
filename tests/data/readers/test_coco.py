"""COCO polygons."""

import json

import numpy as np
import pytest
from matplotlib.path import Path as Outline

from alan.data.readers.coco import Coco, polygon_mask
from alan.errors import AlanWarning, DataError


@pytest.fixture
def root(tmp_path, archives):
    return archives.coco(tmp_path)


def change(root, edit):
    path = root / "instances.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_polygons_become_masks(root, archives):
    data = Coco(root)
    assert data.structures == tuple(archives.classes)
    assert [r.id for r in data.records] == ["p1_a4c_0001", "p1_a4c_0002", "p2_a4c_0001", "p3_plax_0001"]
    for seed, sample in enumerate(data):
        grey, positions = archives.folder_picture(seed)
        assert np.array_equal(sample.frames[0], grey)
        assert np.array_equal(sample.label_maps()[0], positions)


def test_a_polygon_covers_the_pixel_centres_inside_it():
    square = np.array([[10, 10], [20, 10], [20, 20], [10, 20.0]])
    assert np.argwhere(polygon_mask(square, (30, 40))).tolist() == [
        [r, c] for r in range(10, 20) for c in range(10, 20)
    ]
    outline = np.random.default_rng(0).uniform(-5, 45, (7, 2))
    rows, columns = np.indices((30, 40))
    centres = np.stack([columns + 0.5, rows + 0.5], axis=-1).reshape(-1, 2)
    star = outline[np.argsort(np.arctan2(*(outline - outline.mean(0)).T))]
    inside = Outline(np.vstack([star, star[:1]]), closed=True).contains_points(centres).reshape(30, 40)
    assert inside.any()
    assert not inside.all()
    assert np.array_equal(polygon_mask(star, (30, 40)), inside)


def test_later_annotations_cover_earlier_ones(root):
    everything = [0, 0, 44, 0, 44, 30, 0, 30]

    def cover(content):
        content["annotations"][1]["segmentation"] = [everything]  # valve, between ventricle and lv

    change(root, cover)
    data = Coco(root)
    with pytest.warns(
        AlanWarning, match=r"annotations hidden by later ones, the first in p1_a4c_0001: ventricle: "
    ):
        masks = data[0].masks
    assert data[0].masks.keys() == masks.keys()
    assert [failure[:1] for failure in data.failures] == [("p1_a4c_0001: ventricle",)]
    assert not masks["ventricle"].any()
    assert masks["lv"].sum() == 8 * 15
    assert masks["valve"].sum() == 30 * 44 - 8 * 15


def test_a_hole_is_filled_with_a_warning(root):
    """COCO has no holes: the polygons of an annotation are joined, also where a tool meant a hole by one."""

    def pierce(content):
        content["annotations"][0]["segmentation"] = [[0, 0, 20, 0, 20, 20, 0, 20], [5, 5, 9, 5, 9, 9, 5, 9]]

    change(root, pierce)
    data = Coco(root)
    with pytest.warns(AlanWarning, match=r"polygons inside another one .* so a hole is filled"):
        masks = data[0].masks
    assert masks["ventricle"][5:9, 5:9].all()
    assert [failure[0] for failure in data.failures] == ["p1_a4c_0001: ventricle"]


def test_parts_of_an_annotation_are_united(root):
    def split(content):
        content["annotations"][0]["segmentation"] = [[0, 0, 2, 0, 2, 2, 0, 2], [30, 0, 33, 0, 33, 1, 30, 1]]

    change(root, split)
    assert Coco(root)[0].masks["ventricle"].sum() == 4 + 3


def set_annotation(key, value):
    return lambda content: content["annotations"][0].__setitem__(key, value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (set_annotation("category_id", 99), r"annotation 0: unknown class id 99; the categories are 3 ventricle"),
        (set_annotation("segmentation", {"counts": "abc", "size": [30, 44]}), "run-length mask"),
        (set_annotation("segmentation", [[1, 2, 3, 4]]), "polygon of 2 points"),
        (set_annotation("segmentation", [[1, 2, 3, 4, 5]]), "list of x1, y1"),
        (set_annotation("segmentation", [[1, 2, 3, 4, 5, float("nan")]]), "all finite"),
        (set_annotation("segmentation", [[0.1, 0.1, 0.5, 0.1, 0.5, 0.9]]), "in pixels, not as fractions"),
        (set_annotation("segmentation", []), "has no polygon"),
        (set_annotation("image_id", 7), "image 7, which is not listed"),
        (set_annotation("image_id", None), "has no image_id"),
        (lambda content: content.pop("categories"), "no list 'categories'"),
        (lambda content: content["images"][0].pop("height"), "without id, file_name, height"),
        (lambda content: content["images"][0].update(file_name="../x.png"), "lies outside the dataset"),
        (lambda content: content["categories"][0].update(id=7), "id 7 is used by two"),
        (lambda content: content.update(annotations=content["annotations"][3:]), "'p1_a4c_0001': annotate it"),
    ],
)  # fmt: skip
def test_malformed_files_are_refused(root, edit, message):
    change(root, edit)
    with pytest.raises(DataError, match=message):
        Coco(root)


def test_pictures_without_annotation_are_read_on_request(root):
    change(root, lambda content: content.update(annotations=content["annotations"][3:]))
    first, second, *_ = Coco(root, unlabelled=True)
    assert first.masks == {}
    assert second.masks["lv"].any()


def test_a_picture_of_another_shape_is_refused(root, archives):
    archives.picture(root / "images" / "p1_a4c_0001.png", np.zeros((44, 30), np.uint8))
    with pytest.raises(DataError, match="picture and annotations belong together"):
        Coco(root)[0]


def test_a_missing_picture_is_counted(root):
    (root / "images" / "p3_plax_0001.png").unlink()
    with pytest.warns(AlanWarning, match=r"skipped 1 images without a file \(p3_plax_0001.png\): put them into"):
        assert len(Coco(root)) == 3


def test_one_of_several_annotation_files_must_be_chosen(root):
    (root / "other.json").write_text("{}")
    with pytest.raises(DataError, match=r"found instances.json, other.json; give its path as 'annotations'"):
        Coco(root)
    assert len(Coco(root, annotations="instances.json")) == 4


@pytest.mark.parametrize("name", ["images\\{}", "..\\..\\upload\\4\\{}", "/data/local-files/?d=echo/{}", "C:\\{}"])
def test_paths_of_other_computers_are_understood(root, name):
    expected = [sample.label_maps() for sample in Coco(root)]

    def rename(content):
        for image in content["images"]:
            image["file_name"] = name.format(image["file_name"])

    change(root, rename)
    data = Coco(root)
    assert [record.id for record in data.records] == ["p1_a4c_0001", "p1_a4c_0002", "p2_a4c_0001", "p3_plax_0001"]
    for sample, maps in zip(data, expected, strict=True):
        assert np.array_equal(sample.label_maps(), maps)


def test_two_entries_of_one_file_are_refused(root):
    change(root, lambda content: content["images"][1].update(file_name="../other/p1_a4c_0001.png"))
    with pytest.raises(DataError, match="give each picture a name of its own, and list it once"):
        Coco(root)


def test_an_outline_outside_the_picture_is_noted(root):
    def move(content):
        content["annotations"][0]["segmentation"] = [[600, 300, 700, 300, 700, 400]]

    change(root, move)
    data = Coco(root)
    with pytest.warns(AlanWarning, match="annotations without a pixel in the picture, the first in p1_a4c_0001"):
        assert not data[0].masks["ventricle"].any()


def test_a_smaller_outline_beneath_a_larger_one_is_noted(root):
    def cover(content):
        content["annotations"][1]["segmentation"] = [[6, 3, 44, 3, 44, 19, 6, 19]]  # leaves a column of the first

    change(root, cover)
    data = Coco(root)
    with pytest.warns(
        AlanWarning, match="annotations covered by larger ones, the first in p1_a4c_0001: ventricle"
    ):
        assert data[0].masks["ventricle"].sum() == 8
