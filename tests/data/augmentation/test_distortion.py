import numpy as np
import pytest
import torch
from kornia.geometry.calibration import distort_points
from matplotlib.tri import LinearTriInterpolator, Triangulation

from alan.data.augmentation.distortion import grid_distortion, optical_distortion, piecewise_affine
from alan.data.augmentation.presets import PRESETS

SIZE = 20
CENTRES = (np.arange(SIZE) + 0.5) / SIZE * 2 - 1


@pytest.mark.parametrize(
    ("distortion", "nothing"),
    [
        (optical_distortion, torch.zeros(2)),
        (grid_distortion, torch.ones(2, 2, 5)),
        (piecewise_affine, torch.zeros(2, 4, 4, 2)),
    ],
)
def test_a_distortion_of_nothing_is_torchs_own_grid(distortion, nothing):
    plain = torch.nn.functional.affine_grid(
        torch.eye(2, 3).repeat(2, 1, 1), [2, 1, SIZE, SIZE], align_corners=False
    )
    assert torch.allclose(distortion(nothing, SIZE), plain, atol=1e-6)


def test_optical_distortion_is_that_of_a_camera():
    strength = torch.tensor([0.05, -0.3], dtype=torch.float64)
    x, y = np.meshgrid(*[(np.arange(SIZE) + 0.5)] * 2)
    pixels = torch.from_numpy(np.stack([x.ravel(), y.ravel()], -1))
    camera = torch.tensor([[SIZE, 0, SIZE / 2], [0, SIZE, SIZE / 2], [0, 0, 1]], dtype=torch.float64)
    for k, found in zip(strength, optical_distortion(strength, SIZE), strict=True):
        expected = distort_points(pixels[None], camera[None], torch.stack([k, k, 0 * k, 0 * k])[None])[0]
        assert torch.allclose(found.reshape(-1, 2), 2 * expected / SIZE - 1, atol=1e-9)


def test_grid_distortion_follows_the_widths_of_the_cells():
    widths = 0.7 + 0.6 * torch.rand(3, 2, 5, dtype=torch.float64)
    found = grid_distortion(widths, SIZE)
    borders = np.linspace(-1, 1, 6)
    for (columns, rows), grid in zip(widths.numpy(), found.numpy(), strict=True):
        for factors, values in ((columns, grid[..., 0]), (rows, grid[..., 1].T)):
            source = -1 + 0.4 * np.concatenate([[0], np.cumsum(factors)])
            assert np.allclose(values, np.interp(CENTRES, borders, source))


def test_piecewise_affine_interpolates_between_the_nodes_of_triangles():
    shifts = 0.08 * torch.randn(2, 4, 4, 2, dtype=torch.float64)
    line = np.linspace(-1, 1, 4)
    x, y = np.meshgrid(line, line)
    triangles = []
    for row in range(3):
        for column in range(3):
            a = 4 * row + column
            triangles += [[a, a + 1, a + 5], [a, a + 4, a + 5]]
    mesh = Triangulation(x.ravel(), y.ravel(), triangles)
    for shift, grid in zip(shifts.numpy(), piecewise_affine(shifts, SIZE).numpy(), strict=True):
        for axis, even in ((0, x), (1, y)):
            nodes = np.clip(even + shift[..., axis], -1, 1)
            expected = LinearTriInterpolator(mesh, nodes.ravel())(*np.meshgrid(CENTRES, CENTRES))
            assert np.allclose(grid[..., axis], expected)


def test_ednas_distorts_a_fifth_of_the_images():
    size, n = 16, 2000
    grids = PRESETS["ednas"].distortion(n, size, torch.device("cpu"))
    plain = optical_distortion(torch.zeros(1), size)
    moved = (grids - plain).abs().amax((1, 2, 3))
    assert (moved > 1e-4).float().mean() == pytest.approx(0.2, abs=0.04)  # four standard deviations are 0.036
    assert 0.05 < moved.max() < 1
