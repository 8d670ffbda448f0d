"""Damage files at many places, read each, and count the outcomes.

    python tests/faults/mutate_io.py KIND,KIND TRIES SEED FOLDER

prints one line of JSON for each kind: for each way of damage the numbers of files
tried, refused (one line that names the file), right (the same frames as before) and wrong (other frames), and the
list of other exceptions, which must be empty. The process may allocate two gigabytes more than it starts with; a
test runs it with a time limit.
"""

import contextlib
import io
import json
import resource
import sys
import tempfile
import warnings
import zlib
from collections import Counter
from functools import cache
from pathlib import Path

import av
import numpy as np
from PIL import Image

from alan.data.io.cine import read_cine
from alan.data.io.pictures import read_mask
from alan.errors import AlanError

GIGABYTE = 2**30
FRAMES = np.random.default_rng(5).integers(0, 256, (5, 32, 48), np.uint8)
FRAMES[:, :8] = 0


def nifti(compressed):
    import gzip
    import struct

    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, 48, 32, 5, 1, 1, 1, 1)
    struct.pack_into("<hhh8f3f", header, 70, 2, 8, 0, 1, 0.3, 0.5, 1, 1, 1, 1, 1, 352, 1, 0)
    header[123], header[344:348] = 2, b"n+1\0"
    data = bytes(header) + FRAMES.tobytes()
    return gzip.compress(data, mtime=0) if compressed else data


def metaimage(local, compressed=False):
    fields = ["NDims = 3", "DimSize = 48 32 5", "ElementType = MET_UCHAR", "ElementSpacing = 0.3 0.5 1"]
    fields += ["CompressedData = True"] * compressed
    head = "\n".join([*fields, f"ElementDataFile = {'LOCAL' if local else 'pixels.raw'}", ""]).encode()
    pixels = zlib.compress(FRAMES.tobytes()) if compressed else FRAMES.tobytes()
    return head + pixels if local else head


def video(container, codec, pixels, options=None):
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        path = Path(folder, "video")
        file = stack.enter_context(av.open(str(path), "w", format=container, options=options or {}))
        stream = file.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *FRAMES.shape[1:], pixels
        for array in FRAMES:
            frame = av.VideoFrame.from_ndarray(array, format="gray").reformat(format=pixels)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
        stack.close()  # writes the index
        return path.read_bytes()


def dicom(encoding):
    import pydicom
    from pydicom import uid

    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = uid.UltrasoundMultiFrameImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    dataset.SOPClassUID = uid.UltrasoundMultiFrameImageStorage
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = FRAMES.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.FrameTime, dataset.PatientID = 20, "1"
    dataset.PixelData = FRAMES.tobytes()
    dataset["PixelData"].VR = "OB"
    if encoding == "rle":
        dataset.compress(uid.RLELossless)
    elif encoding == "deflated":
        dataset.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    elif encoding in ("jpeg", "mpeg4"):
        streams = [video("mp4", "mpeg4", "yuv420p")]
        dataset.file_meta.TransferSyntaxUID = uid.UID("1.2.840.10008.1.2.4.102")
        if encoding == "jpeg":
            dataset.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
            streams = [picture("JPEG", frame) for frame in FRAMES]
        dataset.PixelData = pydicom.encaps.encapsulate([stream + b"\0" * (len(stream) % 2) for stream in streams])
        dataset["PixelData"].is_undefined_length = True
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def picture(form, array=FRAMES[0], **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, form, **options)
    return buffer.getvalue()


def stack(form, **options):
    pages = [Image.fromarray(frame) for frame in FRAMES[1:]]
    return picture(form, save_all=True, append_images=pages, **options)


def pair():
    """The header of a NIfTI file whose pixels are in a second one."""
    header = bytearray(nifti(False)[:348])
    header[108:112], header[344:348] = bytes(4), b"ni1\0"
    return bytes(header)


#: Kind to (suffix, function that makes the bytes). ``raw`` is the file of pixels beside an undamaged ``.mhd``.
KINDS = {
    "nii": (".nii", lambda: nifti(False)),
    "nii.gz": (".nii.gz", lambda: nifti(True)),
    "hdr": (".hdr", pair),
    "mhd": (".mhd", lambda: metaimage(False)),
    "raw": (".raw", FRAMES.tobytes),
    "mha": (".mha", lambda: metaimage(True)),
    "mha compressed": (".mha", lambda: metaimage(True, True)),
    "avi mjpeg": (".avi", lambda: video("avi", "mjpeg", "yuvj420p")),
    "avi mpeg4": (".avi", lambda: video("avi", "mpeg4", "yuv420p")),
    "mp4": (".mp4", lambda: video("mp4", "mpeg4", "yuv420p")),
    "mov faststart": (".mov", lambda: video("mov", "mjpeg", "yuvj420p", {"movflags": "faststart"})),
    "mkv ffv1": (".mkv", lambda: video("matroska", "ffv1", "gray", {"slicecrc": "1"})),
    "webm": (".webm", lambda: video("webm", "libvpx-vp9", "yuv420p")),
    "wmv": (".wmv", lambda: video("asf", "wmv2", "yuv420p")),
    "mpg": (".mpg", lambda: video("mpeg", "mpeg2video", "yuv420p")),
    "dicom": (".dcm", lambda: dicom("native")),
    "dicom rle": (".dcm", lambda: dicom("rle")),
    "dicom jpeg": (".dcm", lambda: dicom("jpeg")),
    "dicom mpeg4": (".dcm", lambda: dicom("mpeg4")),
    "dicom deflated": (".dcm", lambda: dicom("deflated")),
    "png": (".png", lambda: picture("PNG")),
    "png 16 bits": (".png", lambda: picture("PNG", FRAMES[0].astype(np.uint16) * 257)),
    "mask": (".png", lambda: picture("PNG", FRAMES[0] // 64)),
    "jpg": (".jpg", lambda: picture("JPEG")),
    "bmp": (".bmp", lambda: picture("BMP")),
    "tif": (".tif", lambda: picture("TIFF")),
    "tif stack": (".tif", lambda: stack("TIFF")),
    "tif lzw stack": (".tif", lambda: stack("TIFF", compression="tiff_lzw")),
    "gif": (".gif", lambda: stack("GIF", duration=40)),
}


KINDS = {kind: (suffix, cache(make)) for kind, (suffix, make) in KINDS.items()}


def mutations(whole, tries, rng):
    """(way of damage, bytes), ``tries`` of each way."""
    size, head = len(whole), min(len(whole), 800)
    for _ in range(tries):
        yield "truncate", whole[: rng.integers(0, size)]
        damaged = bytearray(whole)
        damaged[rng.integers(size)] ^= 1 << rng.integers(8)
        yield "flip", bytes(damaged)
        damaged, at, length = bytearray(whole), rng.integers(size), rng.integers(1, 64)
        damaged[at : at + length] = bytes(len(damaged[at : at + length]))
        yield "zero", bytes(damaged)
        yield "append", whole + rng.bytes(int(rng.integers(1, 3000)))
        damaged, at = bytearray(whole), rng.integers(head)
        huge = bytes(rng.choice([0xFF, 0x7F, 0x39]).astype(np.uint8).tobytes()) * int(rng.choice([1, 2, 4, 8]))
        damaged[at : at + len(huge)] = huge[: len(damaged) - at]
        yield "huge header", bytes(damaged)
    for suffix, make in KINDS.values():
        if not whole.startswith(make()[:4]) and suffix != ".raw":
            yield "wrong type", make()


def campaign(damaged, target, read, right, prefix=""):
    """Count what becomes of damaged files, by kind of damage, and list what should not have happened.

    ``damaged`` gives the kind of damage and the bytes for ``target``, ``read`` reads them, ``right`` compares the
    result with that of the whole file, and a refusal is one line that begins with ``prefix``.
    """
    counts, others = {}, []
    for way, data in damaged:
        target.write_bytes(data)
        count = counts.setdefault(way, Counter(tried=0, refused=0, right=0, wrong=0))
        count["tried"] += 1
        try:
            found = read()
        except AlanError as error:
            count["refused"] += 1
            if "\n" in str(error) or not str(error).startswith(prefix):
                others.append(f"{way}: {error!r}")
        except BaseException as error:
            target.with_name(f"other{len(others)}{target.suffix}").write_bytes(data)
            others.append(f"{way}: {error!r}"[:400])
        else:
            count["right" if right(found, way) else "wrong"] += 1
    return {"counts": counts, "others": others}


def damage(kind, tries, seed, folder):
    suffix, make = KINDS[kind]
    whole = make()
    path = target = folder / f"a{suffix}"
    if kind in ("mhd", "raw"):
        (folder / "pixels.raw").write_bytes(FRAMES.tobytes())
        (folder / "a.mhd").write_bytes(metaimage(False))
        path = folder / "a.mhd"
        target = folder / "pixels.raw" if kind == "raw" else path
    if kind == "hdr":
        (folder / "a.img").write_bytes(FRAMES.tobytes())
    read = (lambda file: (read_mask(file).codes, None)) if kind == "mask" else cine
    target.write_bytes(whole)
    expected = read(path)

    def right(found, way):
        # another kind of video or picture under this suffix is read as what it is
        same = np.array_equal(found[0], expected[0]) and found[1:] == expected[1:]
        return same or way == "wrong type"

    damaged = mutations(whole, tries, np.random.default_rng(seed))
    return campaign(damaged, target, lambda: read(path), right, str(folder))


def limit_memory():
    """Allow two gigabytes more than the process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 2 * GIGABYTE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def cine(path):
    found = read_cine(path)
    times = None if found.times is None else tuple(np.round(found.times, 9).tolist())
    return found.frames, found.spacing, times


def run_kinds(damage):
    """Damage the files of the kinds that the command line names, and print a line of JSON for each kind."""
    kinds, tries, seed, folder = sys.argv[1:]
    limit_memory()
    warnings.simplefilter("ignore")
    for kind in kinds.split(","):
        place = Path(folder, kind.replace(" ", "_"))
        place.mkdir()
        print(json.dumps({"kind": kind, **damage(kind, int(tries), int(seed), place)}), flush=True)


def main():
    for _, make in KINDS.values():  # libraries are loaded before the limit is set
        make()
    run_kinds(damage)


if __name__ == "__main__":
    main()
