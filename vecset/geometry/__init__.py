"""Surfaces of masks and distances to them, in mm or voxels. No files and no torch."""
