"""reconstruct.py on formula hearts: a ball whose eight octants are the classes."""

import csv

import numpy as np
import torch

import reconstruct
from helpers.fake_model import ball
from vecset.common.errors import run_command
from vecset.data.case_file import Case, write_case
from vecset.imaging.frame import Frame
from vecset.models.autoencoder import build_model
from vecset.weights import checkpoint as checkpoint_file

CLASSES = 9  # eight octants and one that no heart has
NAMES = [f"class_{c}" for c in range(1, CLASSES + 1)]
MODEL = "learnable_vec4x4_dim32_depth1_nb"
RADIUS_MM = 11.0
MODEL_FROM_CHECKPOINT = checkpoint_file.model_from_checkpoint


def nine_class_ball():
    model = ball(radius=0.7, num_classes=8)
    eight = model.logits
    model.logits = lambda points: torch.cat([eight(points), torch.full((len(points), 1), -99.0)], 1)
    model.num_classes = CLASSES
    return model


def centred_ball():
    """The formula, whatever the points drawn: the heart lies in the middle of its frame."""
    model = nine_class_ball()
    model.encode = lambda surface_BNF: torch.zeros(len(surface_BNF), 1, 3)
    return model


def write_checkpoint(path, seed=0, classes=CLASSES, names=None, model_name=MODEL, **options):
    torch.manual_seed(seed)
    model = build_model(model_name, classes, **options)
    checkpoint_file.save_checkpoint(
        path,
        {
            "model": model.state_dict(),
            "model_config": {"name": model_name, "num_classes": classes, **options},
            "class_names": names or [f"class_{c}" for c in range(1, classes + 1)],
            "epoch": 3,
            "step": 0,
            "args": {"point_cloud_size": 64, "balance": 0.5},
        },
    )
    return path


def make_workdir(folder, monkeypatch):
    """`folder` with a checkpoint and an empty folder `data`; every checkpoint is the formula, while `monkeypatch`
    holds."""
    monkeypatch.setattr(
        checkpoint_file, "model_from_checkpoint", lambda saved, device, where: centred_ball().to(device)
    )
    (folder / "data").mkdir()
    write_checkpoint(folder / "checkpoint.pth")
    return folder


def make_heart(spacing_mm=1.0, turn_deg=0.0, flip=(1, 1, 1), radius_mm=RADIUS_MM):
    """(labels, Frame) of the ball at (5, -20, 60) mm, as the formula says it."""
    a = np.deg2rad(turn_deg)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]) @ np.diag(
        np.array(flip, float) * spacing_mm
    )
    shape = np.array([30, 32, 28])
    affine[:3, 3] = np.array([5.0, -20.0, 60.0]) - affine[:3, :3] @ ((shape - 1) / 2 + 0.2)
    frame = Frame(affine, shape, (5, -20, 60), 0.7 / radius_mm)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1).reshape(-1, 3)
    points = torch.from_numpy(frame.voxel_to_unit(index)).float()
    model = nine_class_ball()
    labels = torch.where(model.distance(points) < 0, model.logits(points).argmax(1) + 1, 0)
    return labels.numpy().astype(np.uint8).reshape(frame.shape), frame


def make_case(path, annotated=range(1, CLASSES + 1), names=NAMES, order=range(1, CLASSES + 1), **grid):
    """A case file of the ball; order: the class ids that its octants get."""
    labels, frame = make_heart(**grid)
    ids_of = np.array([0, *order], np.uint8)
    labels = ids_of[labels]
    axis = torch.nn.functional.normalize(torch.randn(300, 3, generator=torch.Generator().manual_seed(0)), dim=1).numpy()
    points = np.concatenate([axis, -axis]).astype(np.float32) * np.float32(0.7)
    ids = np.tile(ids_of[1:9], 75)
    meta = {"classes": len(names), "class_names": list(names), "annotated_classes": list(annotated)}
    write_case(
        path,
        Case(
            arrays={"surface_points": points, "surface_labels": ids},
            frame=frame,
            truth_crop=labels,
            truth_origin=np.zeros(3, int),
            meta=meta,
        ),
    )
    return path


def run(workdir, *extra, source="data", cells=24):
    return run_command(
        reconstruct.main,
        [
            "--checkpoint",
            str(workdir / "checkpoint.pth"),
            "--input",
            str(workdir / source),
            "--output_dir",
            str(workdir / "out"),
            "--mesh_cells",
            str(cells),
            "--device",
            "cpu",
            *map(str, extra),
        ],
    )


def metrics(workdir):
    with open(workdir / "out" / "metrics.csv", newline="") as handle:
        return list(csv.DictReader(handle))


OBLIQUE = dict(spacing_mm=(0.9, 1.0, 1.3), turn_deg=30, flip=(-1, 1, 1))


def sphere_points(count=400):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(count, 3))
    points *= RADIUS_MM / np.linalg.norm(points, axis=1)[:, None]
    return points + [5, -20, 60], rng.integers(1, 9, count)


def write_ply(path, points, labels, name="label"):
    path.write_text(
        f"ply\nformat ascii 1.0\nelement vertex {len(points)}\n"
        + "".join(f"property float {axis}\n" for axis in "xyz")
        + f"property uchar {name}\nend_header\n"
        + "".join(f"{x:f} {y:f} {z:f} {c}\n" for (x, y, z), c in zip(points, labels))
    )
