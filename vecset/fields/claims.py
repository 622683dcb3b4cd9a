"""How often the class distances of a network disagree about a voxel of the heart.

A network with a signed distance per class may claim a voxel for several classes (overlap), or for none where the
union's distance is negative (unclaimed). The label map has one label there all the same: the class of the smallest
distance, or of the largest logit where the network has logits beside its distances.
"""

import numpy as np

from vecset.fields.heart_field import HeartField
from vecset.imaging.frame import Frame

MOST_VOXELS = 16384  # of a heart: less than a twentieth of the points that a label map of 256^3 voxels asks for


def count_claims(
    field: HeartField, frame: Frame, labels: np.ndarray, most: int | None = MOST_VOXELS, seed: int = 0
) -> dict[str, int] | None:
    """Counts over the voxels of the heart, those with a label in `labels` (X, Y, Z), on the grid of `frame`:
    heart_voxels: how many there are; looked_at: how many were decoded, all or `most`, drawn at random by `seed`;
    overlaps and unclaimed ones among these. None for a field without class distances. A decision tuning changes none of
    them."""
    if not field.has_class_distances:
        return None
    flat = np.flatnonzero(labels)
    chosen = flat
    if most is not None and len(flat) > most:
        chosen = np.sort(np.random.default_rng(seed).choice(flat, most, replace=False))
    index = np.stack(np.unravel_index(chosen, labels.shape), -1)
    claims = np.zeros(0, int)
    if len(chosen):
        claims = (field.class_distances(frame.voxel_to_unit(index)) < 0).sum(1)
    return {
        "heart_voxels": len(flat),
        "looked_at": len(chosen),
        "overlaps": int((claims > 1).sum()),
        "unclaimed": int((claims == 0).sum()),
    }


def claims_line(counts: list[dict[str, int]]) -> str:
    """One line about the counts of several hearts."""
    voxels = sum(count["looked_at"] for count in counts)
    overlaps, unclaimed = (sum(count[name] for count in counts) / max(voxels, 1) for name in ("overlaps", "unclaimed"))
    return (
        f"class distances: several classes claim {overlaps:.2%} of the hearts' voxels, none {unclaimed:.2%} "
        f"({voxels} voxels looked at)"
    )
