"""Dense targets, compared with SciPy's distance transform and hand-drawn ventricles."""

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from alan.backbone.simulation.targets import signed_distances, ventricle_coordinates, wall_masks
from alan.data.store.reader import FrameStore
from alan.errors import ParameterError


def reference(labels, n, clip, stride):
    """One frame and one structure at a time, by SciPy."""
    out = []
    for frame in labels.numpy()[:, ::stride, ::stride]:
        for value in range(1, n + 1):
            inside = frame == value
            if not inside.any():
                signed = np.full(inside.shape, -np.inf)
            elif inside.all():
                signed = np.full(inside.shape, np.inf)
            else:
                inner, outer = distance_transform_edt(inside), distance_transform_edt(~inside)
                signed = np.where(inside, inner - 0.5, 0.5 - outer)
            out.append(np.clip(signed * stride / clip, -1, 1))
    h, w = out[0].shape
    return np.array(out).reshape(len(labels), n, h, w)


@pytest.mark.parametrize(("clip", "stride"), [(10.0, 1), (10.0, 2), (3.5, 1), (40.0, 1), (5.0, 3)])
def test_distances_equal_scipy(tiny, clip, stride):
    store = FrameStore(tiny.store("camus"))
    labels = torch.zeros(4, 112, 112, dtype=torch.uint8)
    for value, name in enumerate(store.structures, 1):
        labels[torch.from_numpy(store.masks([0, 5, 9], name))[[0, 1, 2, 2]]] = value
    labels[3] = torch.randint(0, 4, (112, 112), generator=torch.Generator().manual_seed(0))
    found = signed_distances(wall_masks(labels, ("la", "rv", "ra", "ao")), clip, stride)
    np.testing.assert_allclose(found.numpy(), reference(labels, 4, clip, stride), atol=1e-5)


def test_distances_match_hand_computed_values():
    labels = torch.zeros(1, 5, 7, dtype=torch.uint8)
    labels[0, :, 3:] = 1
    found = signed_distances(wall_masks(labels, ("lv", "la")), clip=3.0)
    expected = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.0]) / 3
    torch.testing.assert_close(found[0, 0], expected.expand(5, 7))
    assert (found[0, 1] == -1).all()
    assert (signed_distances(torch.ones(1, 1, 4, 4, dtype=torch.bool)) == 1).all()
    for bad in ({"clip": 0.0}, {"stride": 0}):
        with pytest.raises(ParameterError, match=r"is 0.*: give a "):
            signed_distances(labels[:, None] > 0, **bad)


def test_the_wall_outline_encloses_cavity_and_wall():
    labels = torch.tensor([[[0, 1, 2, 3]]])
    found = wall_masks(labels, ("lv", "myo", "la"))[0, :, 0]
    assert found.int().tolist() == [[0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]]
    assert wall_masks(labels, ("myo", "lv", "la"))[0, :, 0].int().tolist() == [
        [0, 1, 1, 0],
        [0, 0, 1, 0],
        [0, 0, 0, 1],
    ]
    assert wall_masks(labels, ("myo", "la", "rv"))[0, 0, 0].int().tolist() == [0, 1, 0, 0]


def ventricle():
    """A 20 x 10 ventricle standing on an atrium: the base is the row above it, the apex the top row."""
    lv, la = torch.zeros(1, 40, 31, dtype=torch.bool), torch.zeros(1, 40, 31, dtype=torch.bool)
    lv[0, 5:25, 10:21] = True
    lv[0, 4, 15] = True  # one apex
    la[0, 25:30, 10:21] = True
    return lv, la


def test_coordinates_match_hand_computed_values():
    lv, la = ventricle()
    found = ventricle_coordinates(lv, la, lv)
    assert torch.equal(found.known, lv)
    along, across = found.values[0]
    assert along[4, 15] == 0  # the apex
    assert along[24, 15] == 1  # the middle of the base
    assert along[14, 15] == along[14, 12] == 0.5
    assert across[14, 15] == 0
    assert across[14, 20] == 0.5  # 5 of a half axis of 10, to the right
    assert across[14, 10] == -0.5
    assert (found.values[0][:, ~lv[0]] == 0).all()


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_coordinates_rotate_with_the_heart(turns):
    lv, la = ventricle()
    upright = ventricle_coordinates(lv, la, lv).values
    turned = ventricle_coordinates(*(x.rot90(turns, (1, 2)) for x in (lv, la, lv))).values
    torch.testing.assert_close(turned.rot90(-turns, (2, 3)), upright, atol=1e-5, rtol=0)


def test_coordinates_exist_outside_the_cavity_and_without_an_atrium():
    lv, la = ventricle()
    everywhere = torch.ones_like(lv)
    values, known = ventricle_coordinates(lv, la, everywhere)
    assert known.all()
    assert values[0, 0].min() == pytest.approx(1 - 24 / 20)  # the top row lies 4 above the apex
    assert values[0, 0].max() == pytest.approx(1 + 15 / 20)
    for other in (torch.zeros_like(la), la.roll(3, 1)):  # none, and one that does not touch
        assert not ventricle_coordinates(lv, other, everywhere).known.any()
    assert not ventricle_coordinates(torch.zeros_like(lv), la, everywhere).known.any()


def test_coordinates_agree_with_the_simulated_axis(tiny):
    """Every simulated apical frame has coordinates that run from the top of the cavity to its base."""
    store = FrameStore(tiny.store("camus"))
    rows = range(0, len(store.label_frames), 3)
    lv, la = (torch.from_numpy(store.masks(rows, name)) for name in ("lv", "la"))
    values, known = ventricle_coordinates(lv, la, lv)
    assert (known.flatten(1).any(1) == (la.flatten(1).any(1))).all()
    for frame in range(len(lv)):
        if not known[frame].any():
            continue
        row = torch.arange(112)[:, None].expand(112, 112)[lv[frame]].float()
        assert torch.corrcoef(torch.stack([row, values[frame, 0][lv[frame]]]))[0, 1] > 0.95
