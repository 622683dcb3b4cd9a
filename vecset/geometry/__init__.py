"""Surfaces of masks, and distances to them, in voxels or mm. No files and no torch."""
