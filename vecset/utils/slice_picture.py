"""Label slices as one small picture: truth above prediction, in the colours of the classes."""

import numpy as np

from vecset.data.classes import class_colours


def slice_picture(slices, num_classes, zoom=3):
    """slices: rows of (G, G) u8 label planes -> (H, W, 3) u8, each voxel `zoom` pixels wide, background white."""
    colours = np.full((num_classes + 1, 3), 255, np.uint8)
    for c, code in enumerate(class_colours(num_classes), start=1):
        colours[c] = [int(code[i : i + 2], 16) for i in (1, 3, 5)]
    rows = [np.concatenate([np.pad(plane.T[::-1], 1) for plane in row], 1) for row in slices]
    labels = np.concatenate(rows, 0).repeat(zoom, 0).repeat(zoom, 1)
    return colours[labels]
