"""Frames to decode formula models in, and the meshes of their classes."""

import numpy as np
import torch

from vecset.fields.heart_field import HeartField
from vecset.fields.meshes import class_meshes
from vecset.imaging.frame import Frame

LATENTS = torch.zeros(1, 3)


def frame_of(shape, spacing_mm, rotation_deg=0.0, flip=(1, 1, 1), centre_voxel=None, radius_mm=40.0):
    a = np.deg2rad(rotation_deg)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(np.array(spacing_mm) * flip)
    affine[:3, 3] = (12.0, -80.0, 33.0)
    centre_voxel = (np.array(shape) - 1) / 2 if centre_voxel is None else np.array(centre_voxel)
    return Frame(affine, shape, affine[:3, :3] @ centre_voxel + affine[:3, 3], 0.95 / radius_mm)


FRAMES = {
    "isotropic": frame_of((96, 96, 96), (1, 1, 1)),
    "anisotropic": frame_of((90, 80, 12), (1, 1, 10)),
    "oblique, flipped, odd": frame_of((71, 83, 67), (1.3, 1.1, 1.6), 30, (-1, 1, -1)),
    "cut by the border": frame_of((60, 61, 90), (1, 1, 1), centre_voxel=(10, 30, 45)),
    "larger than the cube": frame_of((160, 50, 50), (1, 2, 2), 45),
}


def hidden_spots(points):
    """1 at the corners of the coarse cells of FRAMES["isotropic"], 0 at their centres: a coarse grid sees nothing."""
    cell = 4 * 0.95 / 40
    offset = (points + 0.95) / cell - 0.5
    return torch.exp(-((((offset - offset.round()) * cell).norm(dim=1) / 0.02) ** 2))


def frame(radius_mm=40.0, flip=1, shape=(101, 101, 51)):
    """The unit cube (42 mm to each side of (11, -20, 70)) in an image of 50 mm to each side, or in a smaller one."""
    affine = np.diag([flip * 1.0, 1.0, 2.0, 1.0])
    affine[:3, 3] = (11.0 - flip * 50, -70.0, 20.0)
    return Frame(affine, shape, (11.0, -20.0, 70.0), 0.95 / radius_mm)


def meshes_of(model, **kwargs):
    return class_meshes(HeartField(model, LATENTS, chunk=20000), kwargs.pop("frame", frame()), kwargs.pop("cells", 64))
