"""The field of one heart, decoded: values and label maps, meshes, and several answers."""
