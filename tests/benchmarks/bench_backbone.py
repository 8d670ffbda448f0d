"""Speed of the backbone relative to its references: ``python tests/benchmarks/bench_backbone.py``.

- *forward*: the locked backbone (uint8 frames in, features out) against timm's ``forward_features`` on tensors
  that are already normalised, for ViT-S/4 at 112 px and for the tiny network; also with overlapping patches;
- *crops*: batched multi-crop on tensors against one image after the other through torchvision's transforms on PIL
  images, the published settings (2 crops of 112, 8 of 48), and the tiny configuration's settings alone.

CPU time of this process on one thread, so that other work on the machine hardly counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from alan.backbone.load import random_backbone
from alan.backbone.normalise import normalise
from alan.backbone.vit import VitSpec
from alan.data.augmentation.multicrop import MultiCrop

SMALL = VitSpec()
TINY = VitSpec(
    image_size=64, patch_size=8, in_chans=1, dim=128, depth=4, heads=4,
    normalisation="sector", initialisation="xavier",
)  # fmt: skip
TINY_CROPS = MultiCrop(
    global_size=64,
    local_size=32,
    n_local=4,
    global_scale=(0.5, 1.0),
    local_scale=(0.15, 0.5),
    flip=0,
    jitter=0,
    blur=(0.5, 0.5, 0.5),
    solarise=(0, 0, 0),
    gamma=0.7,
    field=0.35,
    noise=0.08,
)


def seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """Median CPU seconds of a call, after one to warm up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return float(np.median(times))


def forward(name: str, spec: VitSpec, n: int) -> None:
    """Print images per second of the backbone, and its ratio to timm."""
    backbone = random_backbone(spec)
    size = spec.image_size
    frames = torch.randint(0, 256, (n, size, size), dtype=torch.uint8)
    images = normalise(frames[:, None].float() / 255, spec.normalisation, spec.in_chans).contiguous()
    with torch.no_grad():
        reference = seconds(lambda: backbone.network.forward_features(images))
    ours = seconds(lambda: backbone(frames))
    overlapping = random_backbone(spec, stride=spec.patch_size // 2)
    dense = seconds(lambda: overlapping(frames), 3)
    print(
        f"{name}: {n / ours:.1f} images/s, timm {n / reference:.1f}, ratio of times {ours / reference:.2f}; "
        f"with half the stride {n / dense:.1f} images/s"
    )


def pil_crops() -> Callable[[np.ndarray], list[torch.Tensor]]:
    """The published pipeline on PIL images, grey: without hue and saturation, which do nothing."""

    def pipeline(size: int, scale: tuple[float, float], blur: float, solarise: float) -> v2.Compose:
        return v2.Compose(
            [
                v2.RandomResizedCrop(size, scale, interpolation=InterpolationMode.BICUBIC),
                v2.RandomHorizontalFlip(0.5),
                v2.RandomApply([v2.ColorJitter(0.4, 0.4)], 0.8),
                v2.RandomApply([v2.GaussianBlur(9, (0.1, 2.0))], blur),
                v2.RandomSolarize(128, solarise),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
            ]
        )

    pipelines = [pipeline(112, (0.4, 1), 1.0, 0), pipeline(112, (0.4, 1), 0.1, 0.2)]
    pipelines += [pipeline(48, (0.05, 0.4), 0.5, 0)] * 8
    return lambda frame: [cut(Image.fromarray(frame)) for cut in pipelines]


def crops(n: int) -> None:
    """Print milliseconds per frame of multi-crop, and the ratio to the pipeline on single images."""
    frames = np.random.default_rng(0).integers(0, 256, (n, 112, 112), dtype=np.uint8)
    single, generator = pil_crops(), torch.Generator().manual_seed(0)
    tensor = torch.from_numpy(frames)
    reference = seconds(lambda: [single(frame) for frame in frames], 3)
    ours = seconds(lambda: MultiCrop()(tensor, generator))
    tiny = seconds(lambda: TINY_CROPS(tensor, generator, tensor > 0))
    print(
        f"multi-crop: {1e3 * ours / n:.2f} ms a frame, one by one on PIL images {1e3 * reference / n:.2f}, "
        f"ratio of times {ours / reference:.2f}; tiny configuration {1e3 * tiny / n:.2f} ms a frame"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    forward("ViT-S/4 at 112 px", SMALL, 2)
    forward("tiny ViT/8 at 64 px", TINY, 64)
    crops(32)
