"""What saves memory or time must change no number: recomputed activations, compiled blocks, the network's precision."""

import shutil

import pytest
import torch
from helpers.ball_cases import tiny_arguments, write_ball_cases
from helpers.engine_parts import make_run
from helpers.variant_models import VARIANTS, batch, randomised

from vecset.common.errors import InputError
from vecset.engines import setup
from vecset.engines.arguments import parse_arguments
from vecset.engines.loop import StepOptions, forward_losses
from vecset.engines.setup import cpu_has_bf16, step_options
from vecset.items.loader import collate
from vecset.main_ae import main
from vecset.models import attention_slope
from vecset.models.embedding import surface_features
from vecset.weights.checkpoint import load_checkpoint

WEIGHTS = {"vol": 1.0, "near": 10.0, "surface": 10.0, "eikonal": 0.5, "class": 1.0, "kl": 0.1}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_ball_cases(tmp_path_factory.mktemp("cases"), train=4, val=2)


def loss_and_gradients(model, bf16=False):
    """The training step's losses and gradients, with 11 Eikonal points."""
    items = batch(dtype=next(model.parameters()).dtype)
    items["eikonal_points"] = items["query_points"][:, :11]
    items["code_noise"] = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(2))
    model.zero_grad()
    total, _values, _ = forward_losses(model, items, StepOptions(WEIGHTS, bf16=bf16), 10)
    total.backward()
    return total.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name, options", VARIANTS)
def test_recomputed_activations_change_no_number(name, options, monkeypatch):
    monkeypatch.setitem(attention_slope._BUFFER, "cpu", 2 * 8 * 2 * 4)  # four points at once: three blocks
    model = randomised(name, options, torch.float64).train()  # in float32 the order of sums shows in small gradients
    loss, expected = loss_and_gradients(model)
    saved = [kept_bytes(model)]
    model.checkpoint_activations()
    again, found = loss_and_gradients(model)
    saved.append(kept_bytes(model))
    assert again == pytest.approx(loss, rel=1e-12) and found.keys() == expected.keys()
    for key in expected:
        assert (found[key] - expected[key]).norm() <= 1e-10 * expected[key].norm(), key
    assert saved[1] < saved[0] / 2


def kept_bytes(model):
    """Bytes that the forward pass keeps for the backward pass, parameters left out."""
    parameters = {p.data_ptr() for p in model.parameters()}
    kept = {}

    def pack(tensor):
        if tensor.data_ptr() not in parameters:
            kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    items = batch(dtype=next(model.parameters()).dtype)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        surface = surface_features(items["surface_points"], items["surface_labels"], 10)
        outputs = model(surface, items["query_points"], items["query_points"])
    assert outputs["sdf_BQ"].requires_grad
    return sum(kept.values())


def test_a_run_with_recomputed_activations_is_the_same_run(data, tmp_path):
    for name, more in (("plain", ()), ("recomputed", ("--checkpoint_activations",))):
        assert main(tiny_arguments(data, tmp_path / name, "--epochs", 2, *more)) == 0
    one, other = (load_checkpoint(tmp_path / n / "checkpoint-last.pth")["model"] for n in ("plain", "recomputed"))
    for key in one:
        torch.testing.assert_close(one[key], other[key], rtol=1e-4, atol=1e-6)


needs_compiler = pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler")


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("name, options", [("learnable_vec8x4_dim128_depth12_nb", {}), VARIANTS[-1]])
@pytest.mark.parametrize("recompute", [False, True])
def test_compiled_blocks_change_no_number(name, options, recompute, monkeypatch):
    """Twelve layers and one graph for all of them: more would run into torch's limit of 8 and fall back to eager."""
    torch._dynamo.reset()
    model = randomised(name, options).train()
    loss, expected = loss_and_gradients(model)
    model.compile_blocks()
    model.checkpoint_activations(recompute)
    torch._dynamo.utils.counters.clear()
    again, found = loss_and_gradients(model)
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] == 2 and not counters["graph_break"], counters
    assert again == pytest.approx(loss, rel=1e-5)
    for key in expected:
        assert (found[key] - expected[key]).norm() <= 2e-5 * expected[key].norm(), key


@pytest.mark.slow
@needs_compiler
def test_a_compiled_run_ends_as_the_other_one_and_its_checkpoint_is_a_plain_one(data, tmp_path):
    torch._dynamo.reset()
    for name, more in (("plain", ()), ("compiled", ("--compile",))):
        assert main(tiny_arguments(data, tmp_path / name, "--epochs", 2, *more)) == 0
    one, other = (load_checkpoint(tmp_path / n / "checkpoint-last.pth")["model"] for n in ("plain", "compiled"))
    assert one.keys() == other.keys()
    for key in one:
        torch.testing.assert_close(one[key], other[key], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name, options", VARIANTS[:4])
def test_under_bf16_the_eikonal_decode_and_the_losses_are_float32(name, options):
    """CPU autocast stands in for CUDA's. The slope must be that of a float32 decode of the same latents."""
    model, items = randomised(name, options).eval(), batch()
    surface = surface_features(items["surface_points"], items["surface_labels"], 10)
    points = items["query_points"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        context = model.process_latents(model.encode(surface))
        outputs = model(surface, points, points)
    assert context["latents_BMD"].dtype == torch.bfloat16 or context["keys_values"][0].dtype == torch.bfloat16
    assert {v.dtype for v in outputs.values()} == {torch.float32}
    exact = {**context, "keys_values": model.decoder_cross_attn.fn.keys_values(context["latents_BMD"].float())}
    leaf = points.clone().requires_grad_(True)
    expected = torch.autograd.grad(model.decode(exact, leaf)[0].sum(), leaf)[0]
    assert (outputs["gradient_BE3"] - expected).norm() < 2e-6 * expected.norm()  # 16 bits would be 1e-3 off
    with torch.no_grad():
        precise = model(surface, points)
    assert 0 < (outputs["sdf_BQ"] - precise["sdf_BQ"]).abs().max() < 0.1 * precise["sdf_BQ"].abs().max()
    distances = outputs["sdf_BQ"].flatten()
    assert (distances != distances.bfloat16().float()).any()  # the last layer did not round them to 8 bits
    total, _values, _ = forward_losses(model, {**items, "eikonal_points": points}, StepOptions(WEIGHTS, bf16=True), 10)
    assert total.dtype == torch.float32
    total.backward()
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize(
    "device, wanted, bf16, tf32",
    [
        ("cuda", "auto", True, False),
        ("cuda", "bf16", True, False),
        ("cuda", "tf32", False, True),
        ("cuda", "fp32", False, False),
        ("cpu", "auto", False, False),
        ("cpu", "fp32", False, False),
        ("cpu", "bf16", True, False),
    ],
)
def test_precision_sets_autocast_and_tf32(device, wanted, bf16, tf32, monkeypatch):
    monkeypatch.setattr(setup, "cpu_has_bf16", lambda: True)
    args = parse_arguments(["--data_path", "x", "--output_dir", "y", "--precision", wanted])
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        assert step_options(args, torch.device(device)).bf16 == bf16
        assert torch.backends.cuda.matmul.allow_tf32 == tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = before


def test_16_bit_on_a_cpu_that_would_only_imitate_it_is_refused(monkeypatch):
    monkeypatch.setattr(setup, "cpu_has_bf16", lambda: False)
    args = parse_arguments(["--data_path", "x", "--output_dir", "y", "--precision", "bf16"])
    with pytest.raises(InputError, match="this CPU has no products of 16-bit numbers"):
        step_options(args, torch.device("cpu"))
    assert isinstance(cpu_has_bf16(), bool)


def test_bf16_gradients_point_where_float32_ones_do(data, tmp_path):
    run = make_run(data, tmp_path, "--model", "learnable_vec8x4_dim64_depth2_nb")
    items = collate([run.dataset[0, i] for i in range(4)])
    gradients = []
    for bf16 in (False, True):
        run.step_options.bf16 = bf16
        run.model.zero_grad()
        forward_losses(run.model, items, run.step_options, 3)[0].backward()
        gradients.append(torch.cat([p.grad.flatten() for p in run.model.parameters()]))
    assert torch.cosine_similarity(*gradients, dim=0) > 0.99
