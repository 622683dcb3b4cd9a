"""A trained model and one heart in; field, label map, meshes, latents out. No training and no pages."""
