#!/usr/bin/env python
"""Opens what reconstruct.py wrote in readers that share no code with it: SimpleITK, nibabel, trimesh.

    python benchmarks/open_results.py RECONSTRUCTION [--truth heart.nii.gz] [--volume_tolerance 0.03]

For every heart in the folder: labels.nii.gz and labels.seg.nrrd hold the same voxels at the same places in the
patient (SimpleITK's LPS against nibabel's RAS), with the same names; with --truth (one heart), at the places of the
source. Each mesh is watertight and wound outward. Its volume is that of its label within the tolerance, or within a
twentieth of a voxel over its whole surface where that is more (a tube of one or two voxels loses that by meshing).
Its centre is within a voxel of the label's. heart.glb has a part for each. With --truth the volume is also compared
with the true label's, which a reconstruction of an unseen heart will not always pass. Exit code 1 and a line for each
mismatch.
"""

import argparse
import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import nibabel
import numpy as np
import SimpleITK
import trimesh

TOLERANCE_MM = 1e-3


def sampled_places(shape, seed=0):
    """(N, 3) voxels: the eight corners and a hundred drawn ones."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij")).reshape(3, -1).T
    return np.concatenate([corners, np.random.default_rng(seed).integers(0, shape, (100, 3))])


def places_ras_mm(image, voxels):
    """(N, 3) mm RAS of voxels (N, 3) in a SimpleITK image, whose own mm are LPS."""
    return np.array([image.TransformIndexToPhysicalPoint([int(n) for n in v]) for v in voxels]) * (-1, -1, 1)


def names_in_header(image):
    for extension in image.header.extensions:
        root = ElementTree.fromstring(bytes(extension.get_content()).rstrip(b"\0"))
        return {int(n.get("Key")): n.text for n in root.findall("VolumeInformation/LabelTable/Label")}
    return {}


def names_of_segments(image):
    """{label value: name} of a .seg.nrrd as SimpleITK reads it."""
    found = {}
    while f"Segment{len(found)}_Name" in image.GetMetaDataKeys():
        at = f"Segment{len(found)}_"
        found[int(image.GetMetaData(at + "LabelValue"))] = image.GetMetaData(at + "Name")
    return found


def check_grids(folder, truth, complain):
    """Label map, segmentation and source agree about voxels, places and names; returns (values, image, names)."""
    ours = nibabel.load(folder / "labels.nii.gz")
    values, voxels = np.asanyarray(ours.dataobj), sampled_places(ours.shape)
    places = nibabel.affines.apply_affine(ours.affine, voxels)
    for name in ("labels.nii.gz", "labels.seg.nrrd"):
        image = SimpleITK.ReadImage(str(folder / name))
        if not np.array_equal(SimpleITK.GetArrayFromImage(image).T, values):
            complain(f"{name}: SimpleITK reads other voxels than nibabel reads in labels.nii.gz")
        else:
            off_mm = np.abs(places_ras_mm(image, voxels) - places).max()
            if off_mm > TOLERANCE_MM:
                complain(f"{name}: SimpleITK places voxels {off_mm:.4f} mm from where nibabel does")
    names = names_in_header(ours)
    if not names or names != names_of_segments(image):
        complain(f"names in the header {names}, in the segmentation {names_of_segments(image)}")
    made_from = json.loads((folder / "result.json").read_text())["made_from"]
    other_grid = made_from.get("spacing_mm") or made_from.get("extend_mm")
    if truth is not None and not other_grid:  # with --spacing or --extend the grid is another one on purpose
        if truth.shape != ours.shape:
            complain(f"grid {ours.shape}, the source has {truth.shape}")
        elif (off_mm := np.abs(nibabel.affines.apply_affine(truth.affine, voxels) - places).max()) > TOLERANCE_MM:
            complain(f"voxels are {off_mm:.4f} mm from the source's")
    return values, ours, names


def check_meshes(folder, values, image, names, truth, tolerance, complain):
    """A line per mesh; complains where one is not closed, outward, of its label's volume and at its label's place."""
    voxel_mm3 = abs(np.linalg.det(image.affine[:3, :3]))
    lps = json.loads((folder / "result.json").read_text())["made_from"]["lps"]
    scene = trimesh.load(folder / "heart.glb")
    present = {int(c) for c in np.unique(values)} - {0}
    for c in sorted(present):
        found = [p for p in (folder / "meshes").iterdir() if p.stem == names[c].replace(" (inferred)", "_inferred")]
        if not found or names[c] not in scene.geometry:
            complain(f"{names[c]}: in the label map, but without a mesh or a part of heart.glb")
            continue
        mesh, label_mm3 = trimesh.load(found[0]), np.count_nonzero(values == c) * voxel_mm3
        centre = mesh.center_mass * ((-1, -1, 1) if lps else 1)
        middle = nibabel.affines.apply_affine(image.affine, np.argwhere(values == c).mean(0))
        off_mm, ratio = np.linalg.norm(centre - middle), mesh.volume / label_mm3
        closed = mesh.is_watertight and mesh.is_winding_consistent
        line = (
            f"  {names[c]:<12} {len(mesh.faces):7d} triangles, {'watertight' if closed else 'open'}, "
            f"{mesh.volume / 1000:.2f} ml, {ratio:.4f} of the label's volume, centre {off_mm:.2f} mm from its own"
        )
        if truth is not None and (true_voxels := np.count_nonzero(np.asanyarray(truth.dataobj) == c)):
            of_truth = mesh.volume / (true_voxels * abs(np.linalg.det(truth.affine[:3, :3])))
            line += f", {of_truth:.4f} of the true label's"
            if abs(of_truth - 1) > tolerance:
                complain(f"{names[c]}: the mesh has {of_truth:.4f} of the true label's volume")
        print(line)
        if not closed or mesh.volume <= 0:
            complain(f"{names[c]}: the mesh is open, or inside out")
        if abs(ratio - 1) > max(tolerance, 0.05 * voxel_mm3 ** (1 / 3) * mesh.area / max(mesh.volume, 1e-9)):
            complain(f"{names[c]}: the mesh has {ratio:.4f} of the label's volume")
        if off_mm > np.sqrt(3) * voxel_mm3 ** (1 / 3):
            complain(f"{names[c]}: the mesh lies {off_mm:.2f} mm from its label")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="output folder of reconstruct.py")
    parser.add_argument("--truth", type=Path, help="the label map that the one heart was made from (NIfTI)")
    parser.add_argument("--volume_tolerance", type=float, default=0.03, help="of meshes, relative (default: 0.03)")
    args = parser.parse_args(argv)
    hearts = sorted(p.parent for p in args.folder.glob("*/labels.nii.gz"))
    if not hearts or (args.truth and len(hearts) > 1):
        parser.error(f"{args.folder}: {len(hearts)} hearts; want at least one, and exactly one with --truth")
    truth, complaints = nibabel.load(args.truth) if args.truth else None, []
    for folder in hearts:
        print(folder.name)
        found = []
        parts = check_grids(folder, truth, found.append)
        if (folder / "meshes").is_dir():
            check_meshes(folder, *parts, truth, args.volume_tolerance, found.append)
        complaints += [f"{folder.name}: {text}" for text in found]
    print("\n".join(complaints) or f"{len(hearts)} of {len(hearts)} hearts passed")
    return bool(complaints)


if __name__ == "__main__":
    sys.exit(main())
