"""Damage files of models and features at many places, load each, and count the outcomes.

    python tests/faults/mutate_models.py KINDS TRIES SEED FOLDER

prints one line of JSON per kind (KINDS are separated by commas), as ``mutate_io.py`` does: for each way of damage
the numbers of files tried, refused (one line), right (the same output as before) and wrong (another output), and
unexpected exceptions. The process may use two gigabytes more than at its start; the test limits its time.
"""

import itertools

import numpy as np
import torch
from mutate_io import campaign, mutations, run_kinds

from alan.analysis.view_bank_file import CLASSES
from alan.analysis.views import ViewBank
from alan.backbone.conv import ConvSpec
from alan.backbone.load import random_backbone
from alan.backbone.vit import VitSpec
from alan.cache.layout import CacheManifest
from alan.cache.reader import FeatureCache
from alan.cache.shard import Shard, finish, part_path, shard_path
from alan.downstream.members import load_network, save_ensemble
from alan.downstream.probes.decoder import DecoderProbe
from alan.downstream.probes.linear import LinearProbe
from alan.downstream.soft_parcels import ParcelMember, load_parcel_member, save_parcel_member
from alan.downstream.whitebox.prior import ParcelPrior
from alan.downstream.whitebox.segmenter import ParcelSegmenter
from alan.downstream.whitebox.selection import ParcelSelector
from alan.parcels.heads import RaptorHead
from alan.parcels.model import ParcelModel, load_parcels, save_parcels
from alan.supervised.ensemble import EnsembleSegmenter
from alan.supervised.networks import PaddedNetwork
from alan.supervised.segmenter import Segmenter, load_segmenter, save_segmenter
from alan.supervised.settings import NetworkSpec

SPEC = VitSpec(image_size=16, patch_size=4, in_chans=1, dim=16, depth=1, heads=2)
RANDOM = np.random.default_rng(0)
FRAMES = RANDOM.integers(0, 256, (3, 16, 16), np.uint8)
TOKENS = RANDOM.normal(size=(4, 4, 4, 6)).astype(np.float32)
LABELS = (TOKENS[..., 0] > 0).repeat(4, 1).repeat(4, 2).astype(int)
MAPS = RANDOM.integers(0, 6, (5, 4, 4)).repeat(5, 1).repeat(5, 2)
MASKS = np.isin(MAPS, (1, 3))
INDEX = np.array([3, 4, 5, 9, 20])
FEATURES = {
    "cls": RANDOM.normal(size=(5, 3)).astype(np.float32),
    "maps": RANDOM.integers(0, 9, (5, 4, 4), np.uint8),
}


def backbone():
    return random_backbone(SPEC, seed=0)


def convolutional():
    return random_backbone(ConvSpec(image_size=32, widths=(4, 8)), seed=0)


def parcel_model():
    return ParcelModel(backbone(), RaptorHead(16, 5, generator=torch.Generator().manual_seed(0)), sector_only=True)


def probe(kind, **settings):
    def write(folder):
        kind(**settings).fit(TOKENS, LABELS).save(folder / "probe.safetensors")
        return folder / "probe.safetensors"

    return write, lambda path: kind.load(path).decision_function(TOKENS)


def write_parcels(folder):
    save_parcels(parcel_model(), folder / "parcels.safetensors")
    return folder / "parcels.safetensors"


def with_backbone(read):
    """Read with a backbone that needs no file."""

    def call(path):
        import alan.parcels.model as module

        module.load_backbone = lambda *_, **__: backbone()
        return read(path)

    return call


def write_member(folder):
    model = parcel_model()
    model.source = "backbone.safetensors"
    save_parcels(model, folder / "parcels.safetensors")
    save_parcel_member(
        ParcelMember(model, {"lv": [1, 3], "la": [2]}), folder / "m.json", folder / "parcels.safetensors"
    )
    return folder / "m.json"


def write_ensemble(folder):
    path = write_member(folder)
    member = with_backbone(load_parcel_member)(path)
    other = ParcelMember(member.model, {"lv": [0], "la": [4]})
    save_parcel_member(other, folder / "other.json", folder / "parcels.safetensors")
    ensemble = EnsembleSegmenter({"a": member, "b": other}, {"a": 1.0, "b": 2.0}, {})
    save_ensemble(ensemble, folder / "ensemble.json", {"a": path, "b": folder / "other.json"})
    return folder / "ensemble.json"


def probabilities(network):
    return network.probabilities(torch.from_numpy(FRAMES)).numpy()


def write_white_box(folder):
    box = ParcelSegmenter(ParcelSelector("beta", n_parcels=6, prior=ParcelPrior.count(MAPS, MASKS, n_parcels=6)))
    box.fit(MAPS, MASKS).to_json(folder / "box.json")
    return folder / "box.json"


def write_prior(folder):
    ParcelPrior.count(MAPS, MASKS, n_parcels=6, structure="lv").to_json(folder / "prior.json")
    return folder / "prior.json"


def read_prior(path):
    prior = ParcelPrior.from_json(path)
    return np.stack([prior.inside, prior.outside])


def write_segmenter(folder):
    spec = NetworkSpec(decoder="unet_acdc", encoder=None, decoder_channels=(4, 8))
    model = PaddedNetwork(spec, 1, "unit")
    save_segmenter(Segmenter(model, spec, ["lv"], 16), folder / "segmenter.safetensors")
    return folder / "segmenter.safetensors"


def write_bank(folder):
    frames = RANDOM.integers(0, 256, (6, 32, 32), np.uint8)
    views = ["A4C", "A2C", "PLAX"] * 2
    ViewBank.build(convolutional(), frames, views, n_neighbors=1).save(folder / "bank.safetensors", "b")
    return folder / "bank.safetensors"


def read_bank(path):
    bank = ViewBank.load(path, convolutional())
    kept = bank.n_neighbors, bank.most_frames, bank.sure_from, *(CLASSES.index(view) for view in bank.views)
    return np.concatenate([kept, bank.pooled.ravel(), bank.thumbnails.ravel()])


def cache(ranks, name):
    def write(folder):
        out = folder / "cache.h5"
        manifest = CacheManifest("b" * 64, "", "c" * 64, "d" * 64, ("cls", "maps"), {"frames": "all"})
        layout = {key: (value.shape[1:], value.dtype) for key, value in FEATURES.items()}
        for rank, rows in enumerate(np.array_split(np.arange(5), ranks)):
            shard = Shard(part_path(out, rank), manifest, INDEX[rows], layout, rank=rank, ranks=ranks)
            shard.write(np.arange(len(rows)), {key: value[rows] for key, value in FEATURES.items()})
            shard.close()
        finish(out)
        return shard_path(out, 0) if name == "shard" else out

    def read(path):
        found = FeatureCache(path.with_name("cache.h5"))
        return np.concatenate([found.read("cls", INDEX).ravel(), found.read("maps", INDEX).ravel()])

    return write, read


#: Kind to (writer of a whole file, reader whose output is compared).
KINDS = {
    "linear probe": probe(LinearProbe),
    "decoder probe": probe(DecoderProbe, width=8, steps=2, batch_size=2),
    "parcels": (write_parcels, lambda path: load_parcels(path, backbone()).maps(FRAMES).numpy()),
    "member": (write_member, with_backbone(lambda path: probabilities(load_parcel_member(path)))),
    "ensemble": (write_ensemble, with_backbone(lambda path: probabilities(load_network(path)))),
    "white box": (write_white_box, lambda path: ParcelSegmenter.from_json(path).predict(MAPS)),
    "prior": (write_prior, read_prior),
    "segmenter": (write_segmenter, lambda path: probabilities(load_segmenter(path))),
    "view bank": (write_bank, read_bank),
    "cache": cache(1, "cache"),
    "cache of ranks": cache(2, "cache"),
    "shard": cache(2, "shard"),
}
WRONG_TYPES = (
    b"",
    b"\0",
    b"[]",
    b"{}",
    b"null",
    b"\x89PNG\r\n\x1a\n",
    b"a,b\n1,2\n",
    b"[" * 100_000,
    b"\xff\xfe{}",
)


def damaged(whole, tries, rng):
    yield from itertools.takewhile(lambda item: item[0] != "wrong type", mutations(whole, tries, rng))
    for data in WRONG_TYPES:
        yield "wrong type", data


def damage(kind, tries, seed, folder):
    write, read = KINDS[kind]
    path = write(folder)
    whole, expected = path.read_bytes(), read(path)
    ways = damaged(whole, tries, np.random.default_rng(seed))
    return campaign(ways, path, lambda: read(path), lambda found, way: np.array_equal(found, expected))


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_kinds(damage)
