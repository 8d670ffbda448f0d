"""Pictures that show no view of the heart."""

import numpy as np

from alan.data.simulator.others import _KINDS, other_frames


def test_frames_depend_on_seed_and_number():
    frames = other_frames(2 * len(_KINDS), 48, seed=3)
    assert frames.shape == (2 * len(_KINDS), 48, 48)
    assert frames.dtype == np.uint8
    np.testing.assert_array_equal(other_frames(4, 48, seed=3), frames[:4])
    assert len(np.unique(frames.reshape(len(frames), -1), axis=0)) == len(frames)
    assert (frames[0] != other_frames(1, 48, seed=4)[0]).any()
    assert all(len(np.unique(frame)) > 1 for frame in frames)
