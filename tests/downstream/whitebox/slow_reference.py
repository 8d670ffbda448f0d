"""The published parcel-to-segment steps, written plainly and slowly: the oracle of the fast ones.

Regions are dilated one by one, components are walked with a queue, scikit-image draws the
contours. Also here: made-up parcel maps that look like a head's (position and noise, upsampled from 28 x 28).
"""

import numpy as np
from scipy import ndimage
from skimage import draw, filters, measure, morphology, segmentation

NEIGHBOURS = [(0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1)]  # clockwise from the east


def parcel_maps_and_masks(seed, n, k=64, shape=(112, 112), noise=0.35):
    """(n, H, W) uint8 maps of k parcels, moved by smooth noise, and bool masks: an ellipse."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(0, 1, (k, 2))
    y, x = (np.arange(side) + 0.5 for side in (28, 28))
    distance = ((y[:, None] / 28)[None] - centre[:, 0, None, None]) ** 2 + (
        (x[None] / 28)[None] - centre[:, 1, None, None]
    ) ** 2
    zoom = (1, shape[0] / 28, shape[1] / 28)
    maps, masks = [], []
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    for _ in range(n):
        wave = ndimage.gaussian_filter(rng.normal(size=(k, 28, 28)), (0, 1.5, 1.5))
        logits = -8 * distance + noise * wave / wave.std()
        maps.append(ndimage.zoom(logits, zoom, order=1, grid_mode=True, mode="nearest").argmax(0))
        cy, cx, ry, rx = np.array([0.45, 0.5, 0.28, 0.17]) + rng.normal(0, 0.015, 4)
        masks.append((rows / shape[0] - cy) ** 2 / ry**2 + (columns / shape[1] - cx) ** 2 / rx**2 < 1)
    return np.array(maps, np.uint8), np.array(masks)


def dice(a, b):
    total = a.sum() + b.sum()
    return 2 * (a & b).sum() / total if total else 1.0


def select(
    maps, masks, k, *, overlap, consistency, presence, min_pixels=10, min_share=0.02, presence_of="present"
):
    """Interior parcels by the paper's rule, counted region by region; also (present, inside) per parcel."""
    present, inside = [0] * k, [0] * k
    for parcel_map, mask in zip(maps, masks, strict=True):
        for parcel in range(k):
            where = parcel_map == parcel
            if not where.any():
                continue
            present[parcel] += 1
            labels = measure.label(where, connectivity=1)
            for label in range(1, labels.max() + 1):
                region = labels == label
                hit = (region & mask).sum()
                if hit and hit / region.sum() >= overlap and hit >= min_pixels and hit / mask.sum() >= min_share:
                    inside[parcel] += 1
                    break
    chosen = []
    for parcel in range(k):
        often = (present if presence_of == "present" else inside)[parcel] / len(maps)
        if present[parcel] and inside[parcel] / present[parcel] >= consistency and often >= presence:
            chosen.append(parcel)
    return chosen, present, inside


def trace(component):
    """Outer border of one 8-connected component, clockwise, by looking around each pixel."""
    padded = np.pad(component, 1)
    start = tuple(int(v) for v in np.argwhere(padded)[0])
    place, last, path, seen = start, 1, [], set()
    while True:
        for turn in range(8):
            direction = (last + (6 if last % 2 else 7) + turn) % 8
            step = NEIGHBOURS[direction]
            if padded[place[0] + step[0], place[1] + step[1]]:
                break
        else:
            return np.array([start]) - 1.0
        if (place, direction) in seen:
            return np.array(path) - 1.0
        seen.add((place, direction))
        path.append(place)
        place, last = (place[0] + step[0], place[1] + step[1]), direction


def neighbours_by_dilation(labels):
    """Neighbours of every label: each label is dilated by itself, and the others below it are its neighbours."""
    near = {}
    for label in np.unique(labels):
        grown = ndimage.binary_dilation(labels == label, morphology.disk(1))
        near[int(label)] = set(labels[grown].tolist()) - {int(label)}
    return near


def segment(
    parcel_map, interior, *, enclave_regions=8, radius=10, beta=0.2, gamma=0.01, iterations=10, contour=True
):
    """One frame: interior union, main component, enclaves, closing, holes, active contour, polygon to mask."""
    union = np.isin(parcel_map, interior)
    if not union.any():
        return union
    labels = measure.label(parcel_map, connectivity=1, background=-1)
    near = neighbours_by_dilation(labels)
    components = measure.label(union, connectivity=2)
    best, most = 0, (-1, -1)
    for label in range(1, components.max() + 1):
        inside = components == label
        held = (len(np.unique(parcel_map[inside])), int(inside.sum()))
        if held > most:
            best, most = label, held
    mask = components == best
    kept = set(np.unique(labels[mask]).tolist())
    rest = set(near) - kept
    frame = set(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]).tolist())
    while rest:
        group, queue = set(), [rest.pop()]
        while queue:
            node = queue.pop()
            group.add(node)
            for other in near[node] & rest:
                rest.discard(other)
                queue.append(other)
        if len(group) <= enclave_regions and not group & frame:
            mask = mask | np.isin(labels, list(group))
    mask = morphology.closing(mask, morphology.disk(radius), mode="ignore")
    mask = ndimage.binary_fill_holes(mask)
    if not contour:
        return mask
    smooth = filters.gaussian(mask, 3, preserve_range=False)
    out = np.zeros_like(mask)
    pieces = measure.label(mask, connectivity=2)
    for label in range(1, pieces.max() + 1):
        piece = pieces == label
        snake = segmentation.active_contour(
            smooth, trace(piece), alpha=0, beta=beta, gamma=gamma, w_line=0, w_edge=1, max_num_iter=iterations
        )
        filled = draw.polygon2mask(mask.shape, snake)
        out |= filled if filled.any() else piece
    return out
