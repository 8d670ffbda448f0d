"""Tab of the page with one tab per network, which segments a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alan.analysis.overlay import Painter, display_shape
from alan.app.loops import read_loop
from alan.app.session import Uploads
from alan.arrays import ByteArray
from alan.data.preprocessing import Preprocessing
from alan.data.sample import Record, Sample
from alan.data.structures import structure_name
from alan.downstream.segmentation import NetworkLabeller, write_label_map
from alan.errors import AlanError
from alan.extras import third_party


class PictureMask(NamedTuple):
    """Mask of a picture.

    Attributes:
        overlay: (height, width, 3) uint8, the picture with the outlines of the structures.
        labels: (H, W) uint8 label map at the size of the picture.
        shares: Mapping from structure to the share of the picture that it covers.
    """

    overlay: ByteArray
    labels: ByteArray
    shares: dict[str, float]


class PictureModel:
    """A network that segments single pictures.

    Args:
        path: ``segmenter.safetensors``, or the JSON of an ensemble or of soft parcels.
        size: Side of the frames of the network.
        device: Device that runs it.

    Raises:
        CheckpointError: The file cannot be loaded.
        DataError: A JSON file is missing or damaged.
    """

    def __init__(self, path: str, size: int, device: str = "cpu") -> None:
        self.network, self.size = NetworkLabeller(path, device), size
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


class ModelsTab:
    """Tab of the networks.

    Args:
        models: The networks, among them ensembles.
        uploads: Folder of the uploads.
    """

    def __init__(self, models: Sequence[PictureModel], uploads: Uploads) -> None:
        self.models, self.uploads = models, uploads
        self.gr = third_party("gradio", "ui")

    def build(self) -> None:
        """Place the components and connect them."""
        for number, model in enumerate(self.models):
            with self.gr.Tab(model.name):
                self._build(number, model)

    def _build(self, number: int, model: PictureModel) -> None:
        gr = self.gr
        with gr.Row():
            load = gr.UploadButton("Open a picture", elem_id=f"model-{number}-upload")
            save = gr.DownloadButton("Download the mask", elem_id=f"model-{number}-save")
        picture = gr.Image(
            label=", ".join(structure_name(name) for name in model.structures),
            alt_text="The picture with the outlines of the network",
            interactive=False,
            format="png",
            buttons=[],
            elem_id=f"model-{number}-picture",
        )
        numbers = gr.Markdown(elem_id=f"model-{number}-numbers")
        load.upload(self._segment(model), [load], [picture, numbers, save], api_visibility="private")

    def _segment(self, model: PictureModel) -> Callable[[str], list[Any]]:
        def run(path: str) -> list[Any]:
            try:
                with self.uploads.taking(path) as file:
                    mask = model.segment(file)
            except AlanError as error:
                self.gr.Warning(str(error))
                return [None, "", None]
            saved = self.uploads.place("mask.png")
            model.write(mask, saved)
            words = [f"{structure_name(name)} {share:.1%}" for name, share in mask.shares.items()]
            return [mask.overlay, "Share of the picture: " + ", ".join(words), str(saved)]

        return run
