from .augmentation.dense import DenseAugmentation
from .augmentation.multicrop import Crops, MultiCrop
from .augmentation.presets import Augmentation
from .extract import extract_frames
from .fan import Fan
from .fan_search import find_fans
from .io.base import Cine
from .io.cine import read_cine
from .loaders.labelled import LabelledFrameDataModule
from .loaders.modules import FrameDataModule, SequenceDataModule
from .loaders.simulated import SimulatedDataModule
from .preprocessing import Preprocessing
from .readers.acdc import Acdc
from .readers.base import EchoDataset
from .readers.camus import Camus
from .readers.classes import ClassList
from .readers.coco import Coco
from .readers.echonet import EchoNetDynamic
from .readers.folder import FrameFolder
from .readers.registry import open_dataset
from .readers.segments_ai import SegmentsAi
from .readers.tmed import Tmed2
from .sample import Record, Sample
from .store.layout import StoredSequence
from .store.reader import FrameStore
from .store.writer import prepare

__all__ = [
    "Acdc",
    "Augmentation",
    "Camus",
    "Cine",
    "ClassList",
    "Coco",
    "Crops",
    "DenseAugmentation",
    "EchoDataset",
    "EchoNetDynamic",
    "Fan",
    "FrameDataModule",
    "FrameFolder",
    "FrameStore",
    "LabelledFrameDataModule",
    "MultiCrop",
    "Preprocessing",
    "Record",
    "Sample",
    "SegmentsAi",
    "SequenceDataModule",
    "SimulatedDataModule",
    "StoredSequence",
    "Tmed2",
    "extract_frames",
    "find_fans",
    "open_dataset",
    "prepare",
    "read_cine",
]
