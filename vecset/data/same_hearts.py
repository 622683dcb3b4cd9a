"""Hearts that are in the data twice: the same segmentation, exported, cropped, turned or resampled.

Copies of one file have the same hash. Others are found by the shapes of the structures that two hearts share: volume,
radii (square roots of the eigenvalues of the covariance of a structure's voxels, in mm) and the distances between the
middles of the structures. None of these depends on how an image is stored, or on where the heart lies in it. Structures
that the field of view truncates do not count.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vecset.data.case_file import Case

# Measured (docs/log.md): at most 0.015 between two exports of one heart, at least 0.028 between two hearts that share
# three structures, and 0.065 with seven or ten. A single structure does not tell hearts apart.
ALIKE = 0.02
LEAST_STRUCTURES = 3
LEAST_VOXELS = 200  # of a structure that is compared


@dataclass(frozen=True)
class HeartShape:
    """For structures that are whole in a heart, by name or id: `volumes_mm3` {structure: mm^3}, `radii_mm`
    {structure: (3,)}, sorted, and `middles_mm` {structure: (3,)}."""

    volumes_mm3: dict
    radii_mm: dict
    middles_mm: dict


def volumes_mm3(meta: dict, affine: np.ndarray, ids: Mapping[int, object]) -> dict:
    """{structure: mm^3} of a case file's structures ids {class id: structure}, those that are looked for, whole, and
    large enough, from its `meta` and the affine (4, 4) of its frame; {} for a file of an earlier form."""
    voxels, size = meta.get("voxels_per_class"), abs(np.linalg.det(np.asarray(affine)[:3, :3]))
    whole = set(meta["annotated_classes"]) - set(meta.get("border_classes", ()))
    return {s: voxels[c - 1] * size for c, s in ids.items() if voxels and c in whole and voxels[c - 1] >= LEAST_VOXELS}


def shape_of(case: Case, ids: Mapping[int, object]) -> HeartShape:
    """The `HeartShape` of a Case with frame and truth; ids {class id: structure} as of `volumes_mm3`."""
    volumes = volumes_mm3(case.meta, case.frame.affine, ids)
    axes_mm, radii, middles = np.asarray(case.frame.affine)[:3, :3], {}, {}
    places = np.argwhere(case.truth_crop)
    labels = case.truth_crop[tuple(places.T)]
    places_mm = places @ axes_mm.T
    number = np.bincount(labels, minlength=256)

    def mean(values):
        return np.bincount(labels, values, minlength=256) / number.clip(1)

    centres_mm = np.stack([mean(column) for column in places_mm.T], -1)
    away_mm = places_mm - centres_mm[labels]
    spread = np.array([[mean(a * b) for b in away_mm.T] for a in away_mm.T])  # (3, 3, 256)
    for c, structure in ids.items():
        if structure in volumes:
            middles[structure] = centres_mm[c]
            radii[structure] = np.sqrt(np.linalg.eigvalsh(spread[..., c]).clip(0))
    return HeartShape(volumes, radii, middles)


def difference(one: HeartShape, other: HeartShape) -> float | None:
    """How differently large and far apart the structures are that both hearts have, as a share of their size: the root
    mean square over structures of the relative differences of the cube root of the volume, of the two larger radii, and
    of distances between middles; None where fewer than LEAST_STRUCTURES are in both."""
    both = [s for s in one.volumes_mm3 if s in other.volumes_mm3]
    if len(both) < LEAST_STRUCTURES:
        return None
    found = []
    for s in both:
        found.append(np.log(one.volumes_mm3[s] / other.volumes_mm3[s]) / 3)
        found += np.log(one.radii_mm[s][1:] / other.radii_mm[s][1:]).tolist()
    for n, s in enumerate(both):
        for t in both[n + 1 :]:
            apart = [np.linalg.norm(h.middles_mm[s] - h.middles_mm[t]) for h in (one, other)]
            size = sum(np.linalg.norm(h.radii_mm[k]) for h in (one, other) for k in (s, t)) / 2
            found.append((apart[0] - apart[1]) / size)
    return float(np.sqrt(np.mean(np.square(found))))


def same_hearts(
    volumes: Sequence[Mapping], shape: Callable[[int], HeartShape], skip: Callable[[int, int], bool]
) -> list[tuple[int, int, float]]:
    """[(i, j, `difference`)] of the pairs of hearts i < j that are alike. volumes: {structure: mm^3} of each; shape(i):
    its `HeartShape`, asked for only where volumes agree; skip(i, j): whether a pair need not be compared."""
    names = sorted({s for heart in volumes for s in heart})
    if not names:
        return []
    sizes = np.array([[np.log(heart.get(s, np.nan)) / 3 for s in names] for heart in volumes])
    shapes, pairs = {}, []
    for i in range(len(volumes)):
        apart = np.square(sizes[i + 1 :] - sizes[i])
        shared = np.isfinite(apart).sum(1)
        compared = 3 * shared + shared * (shared - 1) / 2  # numbers of which `difference` takes the mean square
        least = np.nansum(apart, 1) / compared.clip(1)
        for j in np.flatnonzero((shared >= LEAST_STRUCTURES) & (least < ALIKE**2)) + i + 1:
            if skip(i, int(j)):
                continue
            for k in (i, int(j)):
                shapes[k] = shapes[k] if k in shapes else shape(k)
            found = difference(shapes[i], shapes[int(j)])
            if found is not None and found < ALIKE:
                pairs.append((i, int(j), found))
    return pairs
