"""VecSetX-Heart: multi-label heart segmentations as one continuous field."""

__version__ = "0.1.0"
