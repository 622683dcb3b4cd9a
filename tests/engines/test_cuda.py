"""On a GPU, where there is one: the numbers of the CPU, steps that do not wait, and whole runs. Left out elsewhere."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers.ball_cases import tiny_arguments, write_ball_cases
from helpers.processes import torchrun
from helpers.variant_models import CLASS_DISTANCE_VARIANTS, VARIANTS, batch, randomised, with_class_distances

from vecset.engines.compiling import GraphedPass
from vecset.engines.distributed import Ranks
from vecset.engines.loop import Monitor, StepOptions, forward_backward, forward_losses, train_one_epoch
from vecset.engines.losses import DEFAULT_WEIGHTS, losses_of
from vecset.engines.optimizer import build_optimizer
from vecset.items.epoch_plan import MicroBatch
from vecset.models.double_backward import check_double_backward

pytestmark = pytest.mark.gpu
ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = {"vol": 1.0, "near": 10.0, "surface": 10.0, "eikonal": 0.5, "class": 1.0, "kl": 0.1}
WEIGHTS |= {"class_distance": 10.0, "class_near": 10.0, "class_far": 1.0}
NETWORKS = VARIANTS + CLASS_DISTANCE_VARIANTS
POINT_RUN = [
    "--model",
    "point_vec8x4_dim64_depth1_nb",
    "--anchors",
    "--rotary",
    "--fps_class_gap",
    "2",
    "--fps_density",
    "1:2",
    "--decoder_layers",
    "1",
    "--early_latents",
    "4",
    "--early_share",
    "0.5",
    "--class_loss",
    "softmax",
]


def weights_of(options):
    used = losses_of(options.get("network", "joint"), options.get("class_outputs", "logits"))
    return {name: weight for name, weight in WEIGHTS.items() if name in used}


def step_batch(options, dtype=torch.float32, device="cpu"):
    items = batch(dtype=dtype)
    if {"network", "class_outputs"} & set(options):
        items = with_class_distances(items)
    items |= {
        "eikonal_points": items["query_points"][:, :11],
        "case_index": torch.arange(2),
        "code_noise": torch.randn(2, 20, 4, generator=torch.Generator().manual_seed(2)),
    }
    return {name: value.to(device) for name, value in items.items()}


def loss_and_gradient(name, options, device, dtype=torch.float32, bf16=False):
    """(loss, {parameter: gradient}) of one step, as float64 on the CPU."""
    model = randomised(name, options, dtype).to(device).train()
    total, _, _ = forward_losses(
        model, step_batch(options, dtype, device), StepOptions(weights_of(options), bf16=bf16), 10
    )
    total.backward()
    return total.item(), {n: p.grad.double().cpu() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name, options", NETWORKS)
def test_losses_and_every_gradient_are_those_of_the_cpu(name, options):
    loss, expected = loss_and_gradient(name, options, "cpu", torch.float64)
    found_loss, found = loss_and_gradient(name, options, "cuda")
    assert found_loss == pytest.approx(loss, rel=1e-5) and found.keys() == expected.keys()
    whole = torch.cat([g.flatten() for g in expected.values()]).norm()
    for key in expected:
        assert (found[key] - expected[key]).norm() <= 1e-4 * expected[key].norm() + 1e-7 * whole, key


@pytest.mark.parametrize("name, options", NETWORKS)
def test_bfloat16_is_near(name, options):
    loss, expected = loss_and_gradient(name, options, "cuda")
    found_loss, found = loss_and_gradient(name, options, "cuda", bf16=True)
    assert found_loss == pytest.approx(loss, rel=0.03)
    difference = torch.cat([(found[k] - expected[k]).flatten() for k in expected]).norm()
    assert 0 < difference <= 0.1 * torch.cat([g.flatten() for g in expected.values()]).norm()


def test_the_slope_of_attention_and_its_gradients():
    check_double_backward("cuda")


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name, options", NETWORKS)
def test_a_recorded_pass_has_the_numbers_of_one_that_is_not(name, options, bf16):
    model = randomised(name, options).cuda().train()
    step = StepOptions(weights_of(options), bf16=bf16)
    recorded, one = GraphedPass(), step_batch(options, device="cuda")
    other = {**one, "query_sdf": one["query_sdf"] * 0.9, "query_points": one["query_points"] * 0.9}
    for items in (one, other, one):  # recorded with the first, replayed with the others
        found = []
        for way in (recorded, forward_backward):
            model.zero_grad(set_to_none=True)
            values = way(model, items, step, 10, None, 0.5)
            gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).clone()
            found.append((values["loss"][0].item(), gradient))
        (loss, gradient), (expected_loss, expected) = found
        assert loss == pytest.approx(expected_loss, rel=1e-3 if bf16 else 1e-5)
        assert (gradient - expected).norm() <= (1e-2 if bf16 else 1e-4) * expected.norm()


class Steps:
    steps_per_epoch = 4

    def micro_batches(self, epoch, step):
        return [MicroBatch((0, 1), 2, 1.0)]


@pytest.mark.parametrize("name, options", NETWORKS)
def test_no_step_waits_for_the_gpu(name, options):
    device = torch.device("cuda", 0)
    model = randomised(name, options).to(device)
    optimizer = build_optimizer(model, 1e-3, 0.05, 0.99)
    weights = {name: weight for name, weight in DEFAULT_WEIGHTS.items() if name in weights_of(options)}

    def after_step(epoch, step, lr):
        if step == 1:  # the first one sets up
            torch.cuda.set_sync_debug_mode("error")
        return False

    try:
        done = train_one_epoch(
            model,
            itertools.repeat(step_batch(options, device=device)),
            Steps(),
            optimizer,
            lambda e: 1e-3,
            StepOptions({**weights, "eikonal": 0.1}, bf16=True, clip_grad=1.0),
            10,
            0,
            0,
            Monitor(Ranks(0, 1, device)),
            after_step,
        )
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert done == 4


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_ball_cases(tmp_path_factory.mktemp("cases"), train=4, val=2)


def train(data, output, *more, launcher=()):
    words = list(tiny_arguments(data, output, "--epochs", 3, *more))
    at = words.index("--device")
    done = subprocess.run(
        [sys.executable, *launcher, str(ROOT / "vecset" / "main_ae.py"), *words[:at], *words[at + 2 :]],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [(), ("--precision", "fp32"), ("--precision", "tf32"), ("--checkpoint_activations",), ("--compile",)],
    ids=lambda words: "_".join(words).replace("--", "") or "defaults",
)
def test_a_run_and_its_reconstruction(data, tmp_path, more):
    out = train(data, tmp_path / "train", *POINT_RUN, *more)
    assert "cuda" in out
    labels = {}
    for device in ("cuda", "cpu"):
        done = subprocess.run(
            [
                sys.executable,
                str(ROOT / "reconstruct.py"),
                "--checkpoint",
                str(tmp_path / "train/checkpoint-last.pth"),
                "--input",
                str(data / "val.csv"),
                "--output_dir",
                str(tmp_path / device),
                "--device",
                device,
                "--no_meshes",
            ],
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        assert done.returncode == 0, done.stderr
        labels[device] = [np.asarray(nib.load(p).dataobj) for p in sorted((tmp_path / device).glob("*/labels.nii.gz"))]
    assert len(labels["cuda"]) == len(labels["cpu"]) == 2
    for one, other in zip(labels["cuda"], labels["cpu"]):
        either = (one > 0) | (other > 0)
        assert either.sum() > 100 and (one != other)[either].mean() < 0.01


@pytest.mark.slow
def test_a_run_stopped_and_gone_on_under_torchrun(data, tmp_path):  # one process: no NCCL
    launcher = torchrun(1)[1:]
    train(data, tmp_path / "run", *POINT_RUN, "--max_steps", 3, launcher=launcher)
    out = train(data, tmp_path / "run", *POINT_RUN, launcher=launcher)
    assert "going on from" in out
    assert json.loads((tmp_path / "run/status.json").read_text(encoding="utf-8"))["status"] == "finished"
