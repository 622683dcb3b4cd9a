"""VecSetX-Heart: multi-label heart segmentations as one continuous field."""

__version__ = "0.1.0"


def load_heart_model(checkpoint=None, **options):
    """A trained model that encodes hearts and decodes their fields: `LoadedModel` (vecset/inference/model.py).

    checkpoint: of main_ae.py, or released weights; None: those that come with the software, which learned from
    synthetic hearts of sixteen structures. options: `device`, `num_latents`, `num_surface_points`, `decision_tuning`,
    `seed` of `load_model`. Torch is imported here. Raises InputError where the file is missing or no such file."""
    from vecset.inference.model import load_model
    from vecset.weights.release import shipped_weights

    return load_model(checkpoint or shipped_weights(), **options)
