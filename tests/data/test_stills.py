import numpy as np
import pytest
from PIL import Image

from alan.data.preprocessing import Preprocessing
from alan.data.stills import PictureStills

HEAD = "image,source,frame,time_s,row_mm,column_mm,height,width,patient\n"


@pytest.fixture
def root(tmp_path):
    (tmp_path / "mine" / "images").mkdir(parents=True)
    Image.fromarray(np.full((30, 44), 90, np.uint8)).save(tmp_path / "mine" / "images" / "a_1.png")
    (tmp_path / "mine" / "manifest.csv").write_text(f"{HEAD}a_1.png,a.avi,1,0,0.3,0.25,60,88,\n")
    return tmp_path / "mine"


def test_the_pixel_size_is_scaled_with_a_resized_still(root):
    stills = PictureStills(root, Preprocessing(16))
    assert stills.read(0).spacing == pytest.approx((0.6, 0.5))
    before = stills.stamp(0)
    (root / "manifest.csv").write_text(f"{HEAD}a_1.png,a.avi,1,0,0.3,0.25,30,44,\n")
    again = PictureStills(root, Preprocessing(16))
    assert again.read(0).spacing == pytest.approx((0.3, 0.25))
    assert again.stamp(0) != before
    (root / "manifest.csv").write_text(f"{HEAD}a_1.png,a.avi,1,0,0.3,0.25,60,44,\n")
    assert PictureStills(root, Preprocessing(16)).read(0).spacing is None
    assert PictureStills(root, Preprocessing(16), (1.0, 2.0)).read(0).spacing == (1.0, 2.0)


def test_linked_folders_are_followed(root, tmp_path):
    (tmp_path / "disk").mkdir()
    Image.fromarray(np.full((30, 44), 90, np.uint8)).save(tmp_path / "disk" / "b.png")
    (root / "images" / "link").symlink_to(tmp_path / "disk")
    assert list(PictureStills(root, Preprocessing(16)).names) == ["a_1", "link_b"]


def test_long_names_are_shortened_but_keep_their_pixel_size(tmp_path):
    folder = tmp_path / "images" / ("é" * 100)
    folder.mkdir(parents=True)
    Image.fromarray(np.full((30, 44), 90, np.uint8)).save(folder / "a.png")
    (tmp_path / "manifest.csv").write_text(f"{HEAD}{folder.name}/a.png,a.avi,1,0,0.3,0.25,30,44,\n", "utf-8")
    (folder / "b").mkdir()
    Image.fromarray(np.full((30, 44), 90, np.uint8)).save(folder / "b" / f"{'c' * 60}.png")
    stills = PictureStills(tmp_path, Preprocessing(16))
    assert all(len(name.encode()) <= 220 for name in stills.names)
    assert len(set(stills.names)) == 2
    assert stills.read(0).spacing == (0.3, 0.25)
