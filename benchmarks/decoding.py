#!/usr/bin/env python
"""Coarse-to-fine decoding against decoding every voxel: queries, time, equality, what the check found.

    python benchmarks/decoding.py --checkpoint C --input CASE.npz --size 256         # on 256^3 voxels
    python benchmarks/decoding.py --checkpoint C --input heart.nii.gz                 # on its own grid
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

sys.path[0] = str(Path(__file__).resolve().parents[1])

from vecset.data.frame import Frame  # noqa: E402
from vecset.inference.field import HeartField, decode_field  # noqa: E402
from vecset.inference.inputs import Heart, draw_surface, load_heart  # noqa: E402
from vecset.models.embedding import surface_features  # noqa: E402
from vecset.utils.checkpoint import load_checkpoint, model_from_checkpoint  # noqa: E402


def cube_frame(frame, size):
    """A grid of size^3 over the unit cube of `frame`."""
    step_mm = 2 / frame.scale / size
    affine = np.diag([step_mm] * 3 + [1.0])
    affine[:3, 3] = frame.centre_mm - 1 / frame.scale + step_mm / 2
    return Frame(affine, (size,) * 3, frame.centre_mm, frame.scale)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, type=Path)
    parser.add_argument("--input", required=True, type=Path, help="case file or label map")
    parser.add_argument("--size", type=int, help="size^3 voxels over the unit cube (default: the source grid)")
    parser.add_argument("--chunk", type=int, default=32768, help="query points at once (default: 32768)")
    parser.add_argument("--no_dense", action="store_true", help="coarse to fine alone, without the comparison")
    parser.add_argument("--random", action="store_true", help="random weights instead of the trained ones")
    args = parser.parse_args()
    checkpoint = load_checkpoint(args.checkpoint)
    model = model_from_checkpoint(checkpoint)
    if args.random:
        torch.manual_seed(0)
        for parameter in model.parameters():
            parameter.data.normal_(0, 0.05)
    names = checkpoint["class_names"]
    case = load_heart(Heart("x", args.input, not args.input.name.endswith(".npz")), names)
    points, labels = draw_surface(case, "x", checkpoint["args"]["point_cloud_size"])
    frame = cube_frame(case.frame, args.size) if args.size else case.frame
    with torch.inference_mode():
        surface = surface_features(torch.from_numpy(points)[None], torch.from_numpy(labels)[None], len(names))
        code = model.encode(surface)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, grid {frame.shape}, "
          f"{torch.get_num_threads()} threads, chunk {args.chunk}")
    found = {}
    for name, coarse in (("coarse to fine", 4), ("every voxel", 1))[: 1 if args.no_dense else 2]:
        start, cpu = time.time(), time.process_time()
        found[name] = decode_field(HeartField(model, code, args.chunk), frame, coarse)
        d = found[name]
        print(f"{name}: {time.time() - start:.1f} s ({time.process_time() - cpu:.1f} s of CPU), {d.queries} queries of "
              f"{d.voxels} voxels (1/{d.voxels / max(d.queries, 1):.1f}), checked {d.checked}, missed {d.missed}, "
              f"{'every voxel decoded' if d.dense else 'no fallback'}")
    if not args.no_dense:
        fast, dense = (found[n].labels for n in ("coarse to fine", "every voxel"))
        band = ndimage.binary_dilation(dense > 0, iterations=2)
        print(f"labels equal in {(fast == dense)[band].mean():.6%} of {band.sum()} voxels within 2 of the foreground, "
              f"{np.count_nonzero(fast != dense)} differ in all")
        eight = np.ones((3, 3, 3))
        lost = 0
        for c in range(1, len(names) + 1):
            parts, number = ndimage.label(dense == c, eight)
            lost += number - len(np.unique(parts[(fast == c) & (parts > 0)]))
        print(f"components of the dense label map without a voxel in the other: {lost}")


if __name__ == "__main__":
    main()
