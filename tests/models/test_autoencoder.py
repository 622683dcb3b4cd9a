"""The network: shapes, names, the bottlenecks, and the Eikonal gradient against plain attention everywhere."""

import math

import pytest
import torch
from helpers.variant_models import VARIANTS, batch, randomised

from vecset.common.errors import InputError
from vecset.engines.losses import compute_losses, decoded_points
from vecset.models import attention
from vecset.models.autoencoder import build_model, parse_model_name
from vecset.models.embedding import PointEmbed, farthest_point_sampling, spread_in_ball, surface_features

WEIGHTS = {"vol": 1.0, "near": 10.0, "surface": 10.0, "eikonal": 0.5, "class": 1.0, "kl": 0.1}
# constants added to the distance have no slope; in eval the mean is decoded
OUT_OF_REACH = (
    "to_outputs.0.bias",
    "to_outputs.1.bias",
    "bottleneck.logvar_proj.weight",
    "bottleneck.logvar_proj.bias",
)


def loss_of(model, data, eikonal=None, weights=WEIGHTS):
    points, *targets = decoded_points(data)
    surface = surface_features(data["surface_points"], data["surface_labels"], 10)
    outputs = model(surface, points, eikonal)
    return compute_losses(outputs, targets, data["annotated"], weights)


@pytest.mark.parametrize("name, options", VARIANTS)
def test_shapes_and_latents(name, options):
    model, data = randomised(name, options).eval(), batch()
    surface = surface_features(data["surface_points"], data["surface_labels"], 10)
    assert surface.shape == (2, 40, 13)
    with torch.no_grad():
        outputs = model(surface, data["query_points"])
        latents = model.encode(surface)
        sdf, logits = model.decode(model.process_latents(latents), data["query_points"])
    parsed = parse_model_name(name)
    extra = 3 if options.get("anchors") and parsed["query_type"] == "point" else 0
    assert latents.shape == (2, 8, parsed["code_dim"] + extra)
    assert sdf.shape == (2, 30) and logits.shape == (2, 30, 10)
    torch.testing.assert_close(outputs["sdf_BQ"], sdf)
    torch.testing.assert_close(outputs["logits_BQC"], logits)
    # the set is a set: another order of the surface points is the same heart
    with torch.no_grad():
        shuffled = model(surface[:, torch.randperm(40)], data["query_points"])
    torch.testing.assert_close(shuffled["sdf_BQ"], sdf, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("weights", [WEIGHTS, {"eikonal": 0.5}], ids=["with the others", "alone"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name, options", VARIANTS)
def test_eikonal_gradient_is_that_of_plain_attention(name, options, dtype, weights, monkeypatch):
    """Reference: a token for every point, plain attention everywhere, the gradient taken on the main graph at the same
    points. Every parameter must get the same gradient up to rounding, and a non-zero one."""
    data = batch(dtype=dtype)
    eikonal = data["query_points"][:, ::3]

    def gradients(plain):
        model = randomised(name, options, dtype).eval()  # eval: the KL bottleneck draws nothing
        if not plain:
            total, raw = loss_of(model, data, eikonal, weights)
        else:
            monkeypatch.setattr(attention, "fused_attention", attention.plain_attention)
            model.fold = False
            points, *targets = decoded_points(data)
            surface = surface_features(data["surface_points"], data["surface_labels"], 10)
            leaf = eikonal.clone().requires_grad_(True)
            outputs = model(surface, torch.cat([points, leaf], 1))
            sdf_E = outputs["sdf_BQ"][:, points.shape[1] :]
            outputs["gradient_BE3"] = torch.autograd.grad(sdf_E.sum(), leaf, create_graph=True)[0]
            outputs["sdf_BQ"] = outputs["sdf_BQ"][:, : points.shape[1]]
            outputs["logits_BQC"] = outputs["logits_BQC"][:, : points.shape[1]]
            total, raw = compute_losses(outputs, targets, data["annotated"], weights)
            monkeypatch.undo()
        total.backward()
        return {n: p.grad for n, p in model.named_parameters()}, raw

    fast, fast_raw = gradients(plain=False)
    slow, slow_raw = gradients(plain=True)
    assert "eikonal" in fast_raw and fast_raw["eikonal"] > 0
    torch.testing.assert_close(fast_raw, slow_raw, rtol=1e-6 if dtype == torch.float32 else 1e-12, atol=1e-7)
    for parameter, gradient in slow.items():
        if gradient is None:
            assert len(weights) == 1 and parameter in OUT_OF_REACH and fast[parameter] is None, parameter
            continue
        assert gradient.norm() > 0, f"{parameter} gets no gradient"
        error = (fast[parameter] - gradient).norm() / gradient.norm()
        assert error < (2e-5 if dtype == torch.float32 else 1e-9), f"{parameter}: {error:.2e}"


@pytest.mark.parametrize("name, options", VARIANTS)
def test_eikonal_alone_trains_what_it_can_reach(name, options):
    """The term by itself, against central differences of it in float64: the second derivative is really there."""
    data = batch(dtype=torch.float64)
    model = randomised(name, options, torch.float64).eval()
    surface = surface_features(data["surface_points"], data["surface_labels"], 10)
    eikonal = data["query_points"][:, :7]

    def term():
        gradient = model(surface, data["query_points"][:, :2], eikonal)["gradient_BE3"]
        return (gradient.norm(dim=-1) - 1).square().mean()

    term().backward()
    generator = torch.Generator().manual_seed(3)
    for parameter_name, parameter in model.named_parameters():
        if parameter.grad is None:
            assert parameter_name in OUT_OF_REACH, parameter_name
            continue
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        step = 1e-6 / direction.norm()
        with torch.no_grad():
            parameter += step * direction
            above = term()
            parameter -= 2 * step * direction
            below = term()
            parameter += step * direction
        numeric = ((above - below) / (2 * step)).item()
        exact = (parameter.grad * direction).sum().item()
        assert math.isclose(exact, numeric, rel_tol=2e-3, abs_tol=1e-7 * direction.norm()), parameter_name


def test_first_step_from_zero_is_finite():
    torch.manual_seed(0)
    model, data = build_model("learnable_vec8x4_dim128_depth2_nb", 10), batch()
    total, raw = loss_of(model, data, data["query_points"][:, :9])
    total.backward()
    assert torch.isfinite(total) and raw["eikonal"] == 1  # slope 0 everywhere
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name


def test_distance_term_is_minus_gain_times_squared_distance():
    torch.manual_seed(0)
    B, H, Q, K, d = 2, 3, 5, 7, 16
    q, k, v = torch.randn(B, H, Q, d), torch.randn(B, H, K, d), torch.randn(B, H, K, d)
    at, to, gain = torch.randn(B, Q, 3), torch.randn(B, K, 3), torch.rand(H) * 5
    scale = d**-0.5
    logits = q @ k.transpose(-1, -2) * scale - gain.view(1, H, 1, 1) * torch.cdist(at, to).square().unsqueeze(1)
    slow = logits.softmax(-1) @ v
    for form in (attention.plain_attention, attention.fused_attention):
        out = form(*attention.append_distance_term(q, k, v, at, to, gain, scale), scale)
        torch.testing.assert_close(out[..., :d], slow, atol=1e-5, rtol=1e-5)
        assert (out[..., d:] == 0).all()


def test_distance_term_survives_16_bits():
    """Neighbouring latents 0.1 apart, gains as the anchors have them: the weights must be those of float32."""
    torch.manual_seed(0)
    at, to, gain, scale = torch.rand(1, 50, 3) * 2 - 1, torch.rand(1, 200, 3) * 2 - 1, torch.tensor([32.0, 8.0]), 0.125
    nothing = torch.zeros(1, 2, 50, 64), torch.zeros(1, 2, 200, 64), torch.zeros(1, 2, 200, 64)
    q, k, _ = attention.append_distance_term(*(t.bfloat16() for t in nothing), at, to, gain, scale)
    assert q.dtype == torch.bfloat16 and q.shape[-1] % 8 == 0
    exact = -gain.view(1, 2, 1, 1) * torch.cdist(at, to).square().unsqueeze(1)
    logits = q.float() @ k.float().transpose(-1, -2) * scale
    assert (logits.softmax(-1) - exact.softmax(-1)).abs().max() < 2e-3
    plain = (2 * gain.view(1, 2, 1, 1) * at.unsqueeze(1)).bfloat16().float() @ to.unsqueeze(1).bfloat16().float().mT
    plain = plain - gain.view(1, 2, 1, 1) * to.square().sum(-1).bfloat16().float().view(1, 1, 1, -1)
    assert (plain.softmax(-1) - exact.softmax(-1)).abs().max() > 1e-2  # what one part alone would give


def test_fourier_features_by_hand():
    embed = PointEmbed(4, num_features=2).double()
    point = torch.tensor([[[0.3, -0.7, 0.11, 1.0, 0.0]]], dtype=torch.float64)
    phases = [2.0**k * math.pi * x for x in (0.3, -0.7, 0.11) for k in range(8)]
    features = [math.sin(p) for p in phases] + [math.cos(p) for p in phases] + point.flatten().tolist()
    expected = embed.mlp(torch.tensor(features, dtype=torch.float64))
    torch.testing.assert_close(embed(point)[0, 0], expected, atol=1e-5, rtol=1e-5)  # the basis is kept in float32
    assert sum(p.numel() for n, p in embed.named_buffers()) == 3 * 24


def test_farthest_point_sampling_is_the_greedy_definition():
    points = torch.rand(2, 60, 3, generator=torch.Generator().manual_seed(0))
    chosen = farthest_point_sampling(points, 9)
    for b in range(2):
        picked = [int((points[b] - points[b].mean(0)).norm(dim=1).argmax())]
        while len(picked) < 9:
            picked.append(int(torch.cdist(points[b], points[b][picked]).min(1).values.argmax()))
        assert chosen[b].tolist() == picked
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    again = farthest_point_sampling(points[:, order], 9)
    torch.testing.assert_close(points[0][chosen[0]], points[0][order][again[0]])
    with pytest.raises(ValueError, match="61 samples of 60"):
        farthest_point_sampling(points, 61)


def test_anchors_fill_the_ball():
    anchors = spread_in_ball(512)
    assert anchors.norm(dim=1).max() <= 1
    generator = torch.Generator().manual_seed(0)
    probes = torch.randn(2000, 3, generator=generator)
    probes *= torch.rand(2000, 1, generator=generator) ** (1 / 3) / probes.norm(dim=1, keepdim=True)
    nearest = torch.cdist(probes, anchors).min(1).values
    # a perfect lattice has mean 0.48 (4 pi / 3 / 512)^(1/3) = 0.10
    assert nearest.max() < 0.42 and nearest.mean() < 0.11


def test_a_class_that_nobody_annotated_never_wins():
    model, data = randomised("learnable_vec8x4_dim32_depth1_nb", {}).eval(), batch()
    surface = surface_features(data["surface_points"], data["surface_labels"], 10)
    with torch.no_grad():
        before = model(surface, data["query_points"])["logits_BQC"].argmax(-1)
        loser = int(before.flatten().mode().values)
        model.set_known_classes([c != loser for c in range(10)])
        _sdf, logits = model.decode(model.process_latents(model.encode(surface)), data["query_points"])
    assert (before == loser).any() and not (logits.argmax(-1) == loser).any()
    other = build_model("learnable_vec8x4_dim32_depth1_nb", 10)
    other.load_state_dict(model.state_dict())  # and a checkpoint knows it
    assert other.known_classes.tolist() == [c != loser for c in range(10)]


def test_names_are_parsed_not_listed():
    assert parse_model_name("learnable_vec1024x16_dim1024_depth24_sdf_nb") == dict(
        query_type="learnable", num_latents=1024, dim=1024, depth=24, code_dim=16, bottleneck="nb"
    )
    assert parse_model_name("point_vec256_dim128_depth0")["code_dim"] == 128
    for wrong in (
        "learnable_vec64x8_dim128_depth4",
        "learnable_vec64_dim128_depth4_nb",
        "point_vec8x4_dim100_depth1_kl",
        "learned_vec8_dim64_depth1",
        "learnable_vec0_dim64_depth1",
        "learnable_vec8_dim64_depth1_xx",
    ):
        with pytest.raises(InputError, match="learnable.point") as caught:
            parse_model_name(wrong)
        assert wrong in str(caught.value)


def test_default_model_is_the_public_size():
    with torch.device("meta"):
        model = build_model("learnable_vec1024x16_dim1024_depth24_nb", 10)
    assert 4.2e8 < sum(p.numel() for p in model.parameters()) < 4.3e8
    assert model.layers[0][0].fn.heads == 16
