"""Networks of the page, which segment single pictures."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from alan.analysis.overlay import Painter, display_shape
from alan.app.loops import read_loop
from alan.arrays import ByteArray
from alan.data.preprocessing import Preprocessing
from alan.data.sample import Record, Sample
from alan.downstream.segmentation import NetworkLabeller, write_label_map


class PictureMask(NamedTuple):
    """Mask of a picture.

    Attributes:
        overlay: (height, width, 3) uint8, the picture with the outlines of the structures.
        labels: (H, W) uint8 label map at the size of the picture.
        shares: Structure to the share of the picture that it covers.
    """

    overlay: ByteArray
    labels: ByteArray
    shares: dict[str, float]


class PictureModel:
    """A network that segments single pictures.

    Args:
        path: ``segmenter.safetensors``, or the JSON of an ensemble or of soft parcels.
        size: Side of the frames of the network.

    Raises:
        CheckpointError: The file cannot be loaded.
        DataError: A JSON file is missing or damaged.
    """

    def __init__(self, path: str, size: int) -> None:
        self.network, self.size = NetworkLabeller(path), size
        self.name = Path(path).parent.name + "/" + Path(path).stem if Path(path).parent.name else Path(path).stem
        self.structures = self.network.structures

    def segment(self, path: Path) -> PictureMask:
        """Segment the first frame of a file.

        Raises:
            DataError: The file cannot be decoded, or shows no B-mode picture.
        """
        loop = read_loop(path)
        frame = next(loop.chunks(1))
        preprocessing = Preprocessing(self.size)
        small = preprocessing.apply(Sample(Record("picture", "picture"), frame)).frames
        found = self.network.label(small).labels
        painter = Painter(display_shape(loop.shape, loop.pixel_aspect), self.size)
        labels = preprocessing.restore(found, loop.shape)[0]
        shares = {name: float(np.mean(labels == value)) for value, name in enumerate(self.structures, 1)}
        return PictureMask(painter.paint(frame[0], painter.labels(found)[0]), labels, shares)

    def write(self, mask: PictureMask, path: Path) -> None:
        """Write the label map as a PNG with a palette of colours."""
        write_label_map(path, mask.labels)
