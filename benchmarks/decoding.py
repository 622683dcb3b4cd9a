#!/usr/bin/env python
"""Coarse-to-fine decoding against decoding every voxel: queries, time, equality, components, what the check found.

    python benchmarks/decoding.py --checkpoint C --input CASE.npz [...] --size 256       # 256^3 over the unit cube
    python benchmarks/decoding.py --checkpoint C --input CASE.npz --size 256 --weights random    # an untrained model
    python benchmarks/decoding.py --checkpoint C --input CASE.npz --size 256 --weights truth     # the heart's own field

A line per heart, as in benchmarks/RESULTS.md; exit code 1 where a limit is broken (`complaints`). `truth`: the
distance field and labels of the case's own truth instead of a model (vecset/geometry/distance_field.py), as a model
without any error would give them.
"""

import argparse
import resource
import sys
import time
from pathlib import Path

import edt
import numpy as np
import torch
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vecset.fields.decoding import CHECKED_SHARE, LEAST_SKIPPED, decode_label_map
from vecset.fields.heart_field import CHUNK, HeartField
from vecset.geometry.distance_field import UnionField
from vecset.geometry.surface import crop_foreground, union_mesh
from vecset.imaging.frame import Frame
from vecset.inference.inputs import draw_surface, find_hearts, load_heart
from vecset.models.embedding import surface_features
from vecset.weights.checkpoint import load_checkpoint, model_from_checkpoint

LEAST_FEWER = 12.0  # times, at 256^3 and finer
LEAST_EQUAL = 0.9999  # of the voxels within BAND of the foreground
BAND = 2
HEADER = (
    "| heart | weights | grid | CPU s, coarse to fine / every voxel | queries | fewer | skipped | checked "
    "| missed | every voxel decoded | band voxels | of them differ | components, every class | lost | peak MB |\n"
    + "|---" * 15
    + "|"
)


def cube_frame(frame, size):
    """A grid of size^3 over the unit cube of `frame`."""
    step_mm = 2 / frame.scale / size
    affine = np.diag([step_mm] * 3 + [1.0])
    affine[:3, 3] = frame.centre_mm - 1 / frame.scale + step_mm / 2
    return Frame(affine, (size,) * 3, frame.centre_mm, frame.scale)


class TruthField:
    """Stands where a model stands: the distance to the truth of `case` by the voxel transform (continuous; the sign of
    the exact one jumps at single points), and as logits the depth in each structure in voxels."""

    def __init__(self, case):
        self.crop = crop_foreground(case.truth_labels(), case.frame.spacing_mm)
        self.frame, self.classes = case.frame, case.num_classes
        self.field = UnionField(self.crop, union_mesh(self.crop), "edt")
        spacing_mm, finest_mm = tuple(self.crop.spacing_mm), self.crop.spacing_mm.min()
        masks = [self.crop.labels == c for c in range(1, self.classes + 1)]
        self.depths = [
            (edt.edt(mask, anisotropy=spacing_mm) - edt.edt(~mask, anisotropy=spacing_mm)) / finest_mm
            if mask.any()
            else None
            for mask in masks
        ]

    def process_latents(self, latents):
        return latents

    def ask(self, points_unit):
        """(Q, 3) -> distance (Q,) f32 in unit, logits (Q, C) f32: 0 outside, where they decide nothing."""
        points_local_mm = self.crop.voxel_to_local_mm(self.frame.unit_to_voxel(points_unit.astype(np.float64)))
        sdf_unit = (self.field.query(points_local_mm)[0] * self.frame.scale).astype(np.float32)
        logits = np.zeros((len(sdf_unit), self.classes), np.float32)
        index = (points_local_mm[sdf_unit < 0] / self.crop.spacing_mm).T
        for c, depth in enumerate(self.depths):
            logits[sdf_unit < 0, c] = -999 if depth is None else ndimage.map_coordinates(depth, index, order=1)
        return sdf_unit, logits


class TruthHeart(HeartField):
    """A HeartField that asks a TruthField."""

    def __init__(self, truth, chunk):
        super().__init__(truth, torch.zeros(1, 1), chunk)

    def _raw(self, points_unit):
        self.queries += len(points_unit)
        return tuple(map(torch.from_numpy, self.model.ask(points_unit)))


def measure(make_field, frame, num_classes, dense=True, seed=0):
    """Decodes both ways; a dict of figures. make_field() -> a fresh HeartField; `dense`: also every voxel, to compare.

    band, band_differ: voxels within BAND of the foreground, and those that differ; components, lost: of all classes
    (through faces, edges, corners) in the dense label map, and those without a voxel in the other."""
    found = {}
    for name, coarse in (("fast", None), ("dense", 1))[: 2 if dense else 1]:
        field, cpu = make_field(), time.process_time()
        found[name] = decode_label_map(field, frame, coarse, seed)
        found[f"{name}_cpu_s"] = time.process_time() - cpu
        if name == "fast":
            found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    decoded = found["fast"]
    figures = {
        "cpu_s": found["fast_cpu_s"],
        "dense_cpu_s": found.get("dense_cpu_s"),
        "peak_mb": found["peak_mb"],
        **{
            k: getattr(decoded, k)
            for k in ("queries", "voxels", "skipped", "interpolated", "checked", "missed", "dense")
        },
        "fewer": decoded.voxels / max(decoded.queries, 1),
    }
    if dense:
        figures.update(compare(decoded.labels, found["dense"].labels, num_classes))
    return figures


def compare(labels, expected, num_classes):
    """band, band_differ, differ, components, lost (see `measure`) of two label maps (X, Y, Z)."""
    band = ndimage.binary_dilation(expected > 0, iterations=BAND)
    components = lost = 0
    for c in range(1, num_classes + 1):
        parts, number = ndimage.label(expected == c, np.ones((3, 3, 3)))
        components += number
        lost += number - len(np.unique(parts[(labels == c) & (parts > 0)]))
    return {
        "band": int(band.sum()),
        "band_differ": int(np.count_nonzero((labels != expected)[band])),
        "differ": int(np.count_nonzero(labels != expected)),
        "components": components,
        "lost": lost,
    }


def complaints(figures, weights, size):
    """The limits that are broken, as a list of texts. A random field may fall back, and then must be equal."""
    found = []
    if figures["checked"] < CHECKED_SHARE * figures["skipped"]:
        found.append(f"{figures['checked']} of {figures['skipped']} skipped voxels checked")
    if (figures["missed"] > 0 or figures["skipped"] < LEAST_SKIPPED * figures["voxels"]) != figures["dense"]:
        found.append("a miss without falling back, or falling back without a reason")
    if weights != "random":
        if figures["dense"]:
            found.append(f"{figures['missed']} voxels missed, {figures['skipped']} skipped: every voxel was decoded")
        if (size or 0) >= 256 and figures["fewer"] < LEAST_FEWER:
            found.append(f"{figures['fewer']:.2f} times fewer queries, not {LEAST_FEWER:g}")
    if "band" in figures:
        if figures["band_differ"] > (1 - LEAST_EQUAL) * figures["band"]:
            found.append(f"{figures['band_differ']} of {figures['band']} voxels near the foreground differ")
        if figures["lost"]:
            found.append(f"{figures['lost']} of {figures['components']} components lost")
        if figures["dense"] and figures["differ"]:
            found.append(f"every voxel was decoded, and {figures['differ']} differ")
    return found


def row(name, weights, frame, figures):
    """A line of the table."""
    compared = [f"{figures[k]:,}" if k in figures else "" for k in ("band", "band_differ", "components", "lost")]
    dense_s = "" if figures["dense_cpu_s"] is None else f"{figures['dense_cpu_s']:.0f}"
    return " | ".join(
        [
            f"| {name}",
            weights,
            " x ".join(map(str, frame.shape)),
            f"{figures['cpu_s']:.1f} / {dense_s}",
            f"{figures['queries']:,}",
            f"{figures['fewer']:.1f}",
            f"{figures['skipped']:,}",
            f"{figures['checked']:,}",
            str(figures["missed"]),
            "yes" if figures["dense"] else "no",
            *compared,
            f"{figures['peak_mb']:.0f} |",
        ]
    )


def make_field_of(case, args, checkpoint, model):
    """A function that makes the HeartField of `case`, always the same."""
    if args.weights == "truth":
        truth = TruthField(case)
        return lambda: TruthHeart(truth, args.chunk)
    points, labels = draw_surface(
        case, case.path.stem, checkpoint["args"]["point_cloud_size"], float(checkpoint["args"].get("balance") or 0)
    )
    with torch.inference_mode():
        latents = model.encode(
            surface_features(torch.from_numpy(points)[None], torch.from_numpy(labels)[None], case.num_classes)
        )
    if args.weights == "random":  # outputs round 0, so that there are surfaces and class borders everywhere
        points_unit = np.random.default_rng(0).uniform(-1, 1, (4096, 3))
        sdf, logits = HeartField(model, latents, args.chunk).values(points_unit)
        model.to_outputs[1].bias.data -= torch.from_numpy(np.median(np.column_stack([sdf, logits]), 0)).float()
    return lambda: HeartField(model, latents, args.chunk)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, type=Path, help="of main_ae.py")
    parser.add_argument("--input", required=True, type=Path, nargs="+", help="case files or label maps")
    parser.add_argument("--size", type=int, help="size^3 voxels over the unit cube (default: the source grid)")
    parser.add_argument("--chunk", type=int, default=CHUNK, help="query points at once (default: %(default)s)")
    parser.add_argument("--no_dense", action="store_true", help="leave out decoding every voxel")
    parser.add_argument(
        "--weights",
        default="trained",
        choices=("trained", "random", "truth"),
        help="those of the checkpoint, random ones, or the heart's own field instead of a model (default: trained)",
    )
    parser.add_argument(
        "--random_std", type=float, default=0.1, help="standard deviation of random weights (default: %(default)s)"
    )
    args = parser.parse_args()
    checkpoint = load_checkpoint(args.checkpoint)
    model = model_from_checkpoint(checkpoint)
    if args.weights == "random":
        torch.manual_seed(0)
        for parameter in model.parameters():
            parameter.data.normal_(0, args.random_std)
    print(
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {torch.get_num_threads()} threads, "
        f"chunk {args.chunk}\n{HEADER}"
    )
    found = []
    for path in args.input:
        case = load_heart(find_hearts(path)[0], checkpoint["class_names"])
        frame = cube_frame(case.frame, args.size) if args.size else case.frame
        figures = measure(make_field_of(case, args, checkpoint, model), frame, case.num_classes, not args.no_dense)
        print(row(path.name, args.weights, frame, figures), flush=True)
        found += [f"{path.name}: {text}" for text in complaints(figures, args.weights, args.size)]
    print("\n".join(found) or "every limit holds")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
