"""Small screens with known fans, written in the file formats of ultrasound machines."""

import gzip
import io
import struct
import zlib

import av
import numpy as np
from PIL import Image
from scipy import ndimage

from alan.data.fan import Fan

FAN = Fan(6.0, 64.0, 0.0, 84.0, -0.62, 0.62, "curved", (96, 128))


def speckle(shape, seed=0, length=6):
    """(T, H, W) uint8: a dark beating chamber in moving speckle."""
    rng = np.random.default_rng(seed)
    grain = ndimage.gaussian_filter(rng.rayleigh(60, (length, *shape)), (0, 0.7, 0.7))
    rows, columns = np.indices(shape)
    for index, frame in enumerate(grain):
        radius = 0.2 + 0.04 * np.cos(2 * np.pi * index / length)
        chamber = np.hypot((rows / shape[0] - 0.5) * 1.0, columns / shape[1] - 0.5) < radius
        frame[chamber] *= 0.2
    return np.clip(grain, 6, 255).astype(np.uint8)


def screen(*fans, length=6, text=False, seed=0):
    """(T, H, W) uint8 of one or several fans, with marks outside."""
    shape = fans[0].shape
    frames = np.zeros((length, *shape), np.uint8)
    for number, fan in enumerate(fans):
        inside = fan.mask()
        frames[:, inside] = speckle(shape, seed + number, length)[:, inside]
    if text:
        frames[:, 2:9, 2:30:2] = 255
        frames[:, 86:93, 100:124:3] = 200
    return frames


def colour(frames, where=None, hues=((255, 40, 20), (20, 60, 255))):
    """(T, H, W, 3) uint8: grey frames with patches of flow."""
    colours = np.repeat(frames[..., None], 3, -1)
    for hue, part in zip(hues, () if where is None else where, strict=False):
        colours[:, part] = hue
    return colours


def video(path, frames, codec="ffv1", pixels=None, fps=25):
    """Write a video of (T, H, W) grey or (T, H, W, 3) colour frames."""
    coloured = frames.ndim == 4
    pixels = pixels or ("bgr0" if coloured else "gray")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
        for array in frames:
            frame = av.VideoFrame.from_ndarray(array, format="rgb24" if coloured else "gray")
            container.mux(stream.encode(frame.reformat(format=pixels)))
        container.mux(stream.encode())
    return path


def dicom(path, frames, *, stated=None, regions=(), pixels=None, **elements):
    """Write an uncompressed DICOM file with pydicom."""
    import pydicom

    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.UltrasoundMultiFrameImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.Modality = "US"
    dataset.NumberOfFrames = len(frames) if stated is None else stated
    dataset.Rows, dataset.Columns = frames.shape[1:3]
    dataset.SamplesPerPixel = 3 if frames.ndim == 4 else 1
    if frames.ndim == 4:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = "RGB" if frames.ndim == 4 else "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8 * frames.dtype.itemsize
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, 0
    dataset.FrameTime = 40
    if regions:
        dataset.SequenceOfUltrasoundRegions = [region(*item) for item in regions]
    for key, value in elements.items():
        setattr(dataset, key, value)
    dataset.PixelData = frames.tobytes() if pixels is None else pixels
    dataset["PixelData"].VR = "OB" if frames.dtype.itemsize == 1 else "OW"
    dataset.save_as(path, enforce_file_format=True)
    return path


def region(box, form=1, data=1, delta=0.05, units=(3, 3)):
    """A region; the box is (top, left, bottom, right), exclusive."""
    import pydicom

    item = pydicom.Dataset()
    item.RegionSpatialFormat, item.RegionDataType = form, data
    item.PhysicalUnitsXDirection, item.PhysicalUnitsYDirection = units
    item.PhysicalDeltaX = item.PhysicalDeltaY = delta
    item.RegionLocationMinY0, item.RegionLocationMinX0 = box[:2]
    item.RegionLocationMaxY1, item.RegionLocationMaxX1 = box[2] - 1, box[3] - 1
    return item


def nifti(frames, code=None, *, offset=352, dims=None, compressed=False, magic=b"n+1\0"):
    """The bytes of a NIfTI file."""
    codes = {"uint8": 2, "int16": 4, "float32": 16, "complex64": 32, "uint16": 512}
    header = bytearray(352)
    length, height, width = frames.shape
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, *(dims or (4, width, height, 1, length, 1, 1, 1)))
    struct.pack_into("<hh", header, 70, code or codes[frames.dtype.name], 8 * frames.dtype.itemsize)
    struct.pack_into("<8f3f", header, 76, 1, 0.5, 0.5, 1, 0.04, 1, 1, 1, offset, 1, 0)
    header[123], header[344:348] = 2 | 8, magic
    data = bytes(header) + frames.tobytes()
    return gzip.compress(data, mtime=0) if compressed else data


def metaimage(frames, data="LOCAL", *, compressed=False, sizes=None):
    """The bytes of a MetaImage file."""
    length, height, width = frames.shape
    lines = [
        "NDims = 3",
        f"DimSize = {sizes or f'{width} {height} {length}'}",
        "ElementType = MET_UCHAR",
        "ElementSpacing = 0.5 0.5 1",
        *["CompressedData = True"] * compressed,
        f"ElementDataFile = {data}",
        "",
    ]
    pixels = zlib.compress(frames.tobytes()) if compressed else frames.tobytes()
    return "\n".join(lines).encode() + (pixels if data == "LOCAL" else b"")


def pages(frames, form, **options):
    """The bytes of a picture file with one page for each frame."""
    first, *rest = map(Image.fromarray, frames)
    buffer = io.BytesIO()
    more = {"save_all": True, "append_images": rest} if rest else {}
    first.save(buffer, form, **more, **options)
    return buffer.getvalue()


def steady(frames):
    """Frames whose speckle changes slowly, as in a loop of many frames per second."""
    return ndimage.gaussian_filter1d(frames.astype(np.float32), 1.5, axis=0, mode="wrap").astype(np.uint8)
