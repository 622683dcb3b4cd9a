"""The Python API: the lines of the README, and that they give what reconstruct.py gives."""

import nibabel as nib
import numpy as np
import pytest
import trimesh
from helpers.formula_hearts import NAMES, make_case, make_heart, run, write_checkpoint

from vecset.common.errors import InputError
from vecset.fields.decoding import decode_label_map
from vecset.fields.meshes import class_meshes
from vecset.imaging.label_map import write_label_map
from vecset.inference.model import load_model

SMALL = dict(model_name="point_vec4x4_dim32_depth1_nb", anchors=True)


def test_a_checkpoint_and_a_label_map_in_labels_and_meshes_out(tmp_path):
    write_checkpoint(tmp_path / "checkpoint.pth", **SMALL)
    truth, frame = make_heart(spacing_mm=(0.9, 1.0, 1.3), turn_deg=30, flip=(-1, 1, 1))
    write_label_map(tmp_path / "heart.nii.gz", truth, frame.affine)

    model = load_model(tmp_path / "checkpoint.pth", device="cpu")
    case = model.read(tmp_path / "heart.nii.gz")
    latents = model.encode(case)
    field = model.field(latents)
    labels = decode_label_map(field, case.frame).labels
    write_label_map(tmp_path / "labels.nii.gz", labels, case.frame.affine, model.class_names)
    meshes = class_meshes(field, case.frame, cells=16)

    assert latents.shape == (1, 4, 4 + 3) and labels.shape == truth.shape and labels.dtype == np.uint8
    assert all(isinstance(mesh, trimesh.Trimesh) and mesh.is_watertight for mesh in meshes.values())
    (tmp_path / "room").mkdir()
    write_checkpoint(tmp_path / "room" / "checkpoint.pth", **SMALL)
    exactly = ("--latents", "--latent_bits", 32)
    assert run(tmp_path / "room", "--no_meshes", *exactly, source="../heart.nii.gz") == 0
    made = tmp_path / "room" / "out" / "heart"
    stored, _ = load_model(tmp_path / "room" / "checkpoint.pth", device="cpu").stored_latents(made / "latents.npz")
    np.testing.assert_array_equal(stored.numpy(), latents.numpy())
    expected = nib.load(made / "labels.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(expected.dataobj), labels)
    np.testing.assert_allclose(expected.affine, nib.load(tmp_path / "labels.nii.gz").affine, atol=1e-6)


def test_options_of_the_model(tmp_path):
    write_checkpoint(tmp_path / "checkpoint.pth", **SMALL)
    case_path = make_case(tmp_path / "a.npz")
    model = load_model(tmp_path / "checkpoint.pth", device="cpu", num_latents=9, num_surface_points=80, seed=3)
    assert (model.num_latents, model.num_surface_points, model.balance, model.epoch) == (9, 80, 0.5, 3)
    assert model.class_names == NAMES and model.description == "point_vec4x4_dim32_depth1_nb --anchors"
    case = model.read(case_path)
    latents = model.encode(case)
    assert latents.shape == (1, 9, 7)
    np.testing.assert_array_equal(latents, model.encode(case, "a"))  # named after the file
    assert not np.array_equal(latents, model.encode(case, "b"))
    assert not np.array_equal(latents, load_model(tmp_path / "checkpoint.pth", num_latents=9).encode(case))
    with pytest.raises(InputError, match="at least the 81 latents"):
        load_model(tmp_path / "checkpoint.pth", num_latents=81, num_surface_points=80)
