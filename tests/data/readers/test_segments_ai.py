"""segments.ai releases."""

import json

import numpy as np
import pytest
from PIL import Image

from alan.data.readers.segments_ai import SegmentsAi
from alan.errors import AlanWarning, DataError


@pytest.fixture
def root(tmp_path, archives):
    return archives.segments(tmp_path)


def change(root, edit):
    path = root / "release.json"
    content = json.loads(path.read_text())
    edit(content["dataset"])
    path.write_text(json.dumps(content))


def label(dataset, index=0):
    return dataset["samples"][index]["labels"]["ground-truth"]


def test_instances_become_classes(root, archives):
    data = SegmentsAi(root)
    assert data.structures == tuple(archives.classes)
    for seed, sample in enumerate(data):
        grey, positions = archives.folder_picture(seed)
        assert np.array_equal(sample.frames[0], grey)
        assert np.array_equal(sample.label_maps()[0], positions)


def test_annotations_choose_the_class(root, archives):
    def swap(dataset):
        label(dataset)["attributes"]["annotations"][1]["category_id"] = 0  # the valve is a ventricle now

    before = SegmentsAi(root).fingerprint()
    change(root, swap)
    data = SegmentsAi(root)
    assert not data[0].masks["valve"].any()
    assert np.array_equal(data[0].masks["ventricle"][0], np.isin(archives.folder_picture(0)[1], (1, 2)))
    assert data.fingerprint() != before


def test_bitmaps_of_other_places_and_kinds_are_read(root, archives):
    bitmap = root / "labels" / "p1_a4c_0001_label_ground-truth.png"
    codes = np.asarray(Image.open(bitmap)).astype(np.int32) @ np.array([1, 256, 65536, 0])
    bitmap.unlink()
    Image.fromarray(codes.astype(np.int32)).save(root / "0-uuid.tif")
    change(
        root, lambda d: label(d)["attributes"]["segmentation_bitmap"].update(url="https://a.b/c/0-uuid.tif?x=1")
    )
    (root / "images" / "p1_a4c_0001.png").rename(root / "0-image.png")
    sample = SegmentsAi(root)[0]
    assert np.array_equal(sample.label_maps()[0], archives.folder_picture(0)[1])


def test_an_id_without_annotation_is_refused(root):
    change(root, lambda dataset: label(dataset)["attributes"]["annotations"].pop(3))
    data = SegmentsAi(root)
    with pytest.raises(DataError, match="id 300 is not among the 3 annotations"):
        data[0]
    data[1]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: label(d)["attributes"]["annotations"][0].update(category_id=9), "01.png': unknown class id 9"),
        (lambda d: label(d)["attributes"]["annotations"][0].update(id=2), "2 is not the id"),
        (lambda d: label(d)["attributes"].pop("annotations"), "no list of annotations"),
        (lambda d: label(d).update(label_status="LABELING_IN_PROGRESS"), "1 of 4 images have no mask"),
        (lambda d: d["samples"][0].update(labels={"ground-truth": None}), "01': label it in 'ground-truth'"),
        (lambda d: d.update(task_type="bboxes"), "but 'bboxes'"),
        (lambda d: d["labelsets"].pop(0), "no labelset 'ground-truth': .*predictions"),
        (lambda d: d["samples"][0].update(name="../a.png"), "lies outside"),
        (lambda d: d.pop("task_attributes"), "no list 'categories'"),
    ],
)  # fmt: skip
def test_malformed_releases_are_refused(root, edit, message):
    change(root, edit)
    with pytest.raises(DataError, match=message):
        SegmentsAi(root)


def test_unlabelled_pictures_are_read_on_request(root):
    change(root, lambda d: d["samples"][0].update(labels={"ground-truth": None}))
    assert [bool(sample.masks) for sample in SegmentsAi(root, unlabelled=True)] == [False, True, True, True]


def test_missing_pictures_are_skipped_and_missing_bitmaps_refused(root):
    (root / "images" / "p2_a4c_0001.png").unlink()
    with pytest.warns(AlanWarning, match="1 samples whose picture is not on disk"):
        assert len(SegmentsAi(root)) == 3
    (root / "labels" / "p1_a4c_0001_label_ground-truth.png").unlink()
    with pytest.raises(DataError, match=r"bitmap of 'p1_a4c_0001.png' is not on disk.*_label_ground-truth.png'"):
        SegmentsAi(root, unlabelled=True)


def test_a_file_that_is_not_json_is_refused(root):
    (root / "release.json").write_text("{")
    with pytest.raises(DataError, match="not a JSON file"):
        SegmentsAi(root)
