"""One page with the shipped models and a small network, served for all tests of this folder."""

from types import SimpleNamespace

import numpy as np
import pytest

from alan.analysis.overlay import write_mp4
from alan.data.simulator.sequence import simulate_sequence

from ..discs import untrained_segmenter


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """``url`` and ``root`` of a running page, which has one untrained network."""
    pytest.importorskip("gradio")
    from alan.app.page import build_page, serve
    from alan.app.session import Uploads
    from alan.shipped import PARCELS
    from alan.supervised.segmenter import save_segmenter
    from alan.supervised.settings import NetworkSpec

    root, models = tmp_path_factory.mktemp("page"), tmp_path_factory.mktemp("models")
    path = models / "segmenter.safetensors"
    spec = NetworkSpec(decoder="unet_acdc", encoder=None, decoder_channels=(4, 8))
    save_segmenter(untrained_segmenter(spec, ["la", "lv"]), path)
    options = {"white_boxes": (), "networks": [str(path)], "size": 112}
    page = build_page(Uploads(root), model="alan-sim", parcels=PARCELS, **options)
    yield SimpleNamespace(url=serve(page, "127.0.0.1", 0, browser=False), root=root)
    page.close(verbose=False)


@pytest.fixture(scope="session")
def loop(tmp_path_factory):
    """A simulated loop as a video, 24 frames of one beat and a half."""
    path = tmp_path_factory.mktemp("loop") / "Jane_Doe.mp4"
    found = simulate_sequence("A4C", 3, n_frames=24, beats=1.5, size=(160, 208), seed=3)
    with write_mp4(path, (160, 208), 30.0) as write:
        for frame in found.frames:
            write(np.repeat(frame[..., None], 3, axis=2))
    return path
