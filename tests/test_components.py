"""Components by runs against scipy.ndimage.label, class by class."""

import numpy as np
import pytest
from scipy import ndimage

from vecset.data.components import components


@pytest.mark.parametrize("share", [0.03, 0.1, 0.3, 0.6])
def test_equals_scipy(share):
    rng = np.random.default_rng(int(100 * share))
    for _ in range(5):
        labels = ((rng.random((12, 13, 14)) < share) * rng.integers(1, 4, (12, 13, 14))).astype(np.uint8)
        parts, hearts = components(labels)
        for c in (1, 2, 3):
            found, _ = ndimage.label(labels == c, np.ones((3, 3, 3)))
            sizes = np.sort(np.bincount(found.ravel())[1:])
            np.testing.assert_array_equal(np.sort(parts.voxels[parts.label == c]), sizes)
        found, number = ndimage.label(labels > 0, np.ones((3, 3, 3)))
        boxes = sorted([s.start for s in b] + [s.stop for s in b] for b in ndimage.find_objects(found))
        assert sorted(np.concatenate([hearts.start, hearts.stop], 1).tolist()) == boxes and len(hearts.voxels) == number
