"""VecSetX-Heart: a multi-label heart as one continuous shape code, and back."""

__version__ = "0.1.0"
