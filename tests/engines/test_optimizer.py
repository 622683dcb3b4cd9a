import copy
import math

import pytest
import torch

from vecset.engines.optimizer import (
    Muon,
    build_optimizer,
    gradient_norm,
    load_state,
    masked_step,
    orthogonal,
    parameter_groups,
)
from vecset.models.autoencoder import build_model


def test_only_matrices_decay():
    model = build_model("learnable_vec4x2_dim8_depth1_nb", 2, anchors=True)
    names = {id(p): n for n, p in model.named_parameters()}
    decay, keep = ({names[id(p)] for p in group["params"]} for group in parameter_groups(model, 0.1))
    assert not decay & keep and decay | keep == set(names.values())
    assert {"latents.weight", "anchors", "bottleneck.gamma", "encoder_gain", "to_outputs.1.bias"} <= keep
    assert {"layers.0.0.fn.to_q.weight", "to_outputs.1.weight", "point_embed.mlp.weight"} <= decay
    assert not any(n.endswith("bias") or ".norm." in n for n in decay)


def test_masked_step_changes_nothing_and_the_next_one_is_as_if_it_had_not_been():
    def run(bad_at):
        torch.manual_seed(0)
        layer = torch.nn.Linear(3, 2)
        optimizer = build_optimizer(layer, 0.1, 0.05, 0.99)
        for step in range(4):
            for p in layer.parameters():
                p.grad = torch.full_like(p, float("nan") if step == bad_at else 1.0)
            before = [p.detach().clone() for p in layer.parameters()]
            masked_step(optimizer, torch.tensor(float(step == bad_at)))
            changed = [not torch.equal(p, b) for p, b in zip(layer.parameters(), before)]
            assert not any(changed) if step == bad_at else all(changed)
        return layer

    for a, b in zip(run(bad_at=3).parameters(), run(bad_at=1).parameters()):
        assert torch.equal(a, b)  # moments and step counts were left alone too


@pytest.mark.parametrize("options", [{"anchors": True}, {"states": True, "answer_noise": 3}, {"network": "parts"}])
def test_muon_moves_the_matrices_inside_the_network_and_adamw_the_rest(options):
    model = build_model("point_vec4x2_dim8_depth2_nb", 2, **options)
    names = {id(p): n for n, p in model.named_parameters()}
    matrices, decay, keep = (
        {names[id(p)] for p in group["params"]}
        for group in build_optimizer(model, 0.1, 0.1, 0.99, name="muon").param_groups
    )
    assert len(matrices) + len(decay) + len(keep) == len(names) and matrices | decay | keep == set(names.values())
    assert {"layers.0.0.fn.to_q.weight", "layers.1.1.fn.net.2.weight", "decoder_cross_attn.fn.to_kv.weight"} <= matrices
    assert {"bottleneck.pre_bottleneck_proj.weight", "bottleneck.post_bottleneck_proj.weight"} <= matrices
    assert {"point_embed.mlp.weight", "query_embed.mlp.weight", "to_outputs.1.weight"} <= decay
    assert not any(name.startswith("answer_noise") for name in matrices) and "bottleneck.gamma" in keep


def test_a_step_of_muon_is_orthogonal_and_as_large_as_one_of_adamw():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(24, 12))
    start = model[0].weight.detach().clone()
    model[0].weight.grad, model[0].bias.grad = torch.randn(12, 24), torch.ones(12)
    optimizer = build_optimizer(model, 0.0, 0.0, 0.99, name="muon")
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    masked_step(optimizer, torch.zeros(()))
    step = start - model[0].weight.detach()
    u, _, v = torch.linalg.svd(model[0].weight.grad, full_matrices=False)
    scale = 0.01 * 0.2 * math.sqrt(24)  # 0.2 sqrt(longest axis): root mean square of 0.2, as AdamW's updates have
    singular = torch.linalg.svdvals(u.T @ step @ v.T) / scale
    assert singular.min() > 0.5 and singular.max() < 1.3  # five iterations come this close to 1 (Jordan et al.)
    assert torch.cosine_similarity(step.flatten(), (u @ v).flatten(), 0) > 0.97


def test_a_masked_step_of_muon_changes_nothing():
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2)
    optimizer = build_optimizer(layer, 0.1, 0.05, 0.99, name="muon")
    for bad in (0, 1, 0):
        for p in layer.parameters():
            p.grad = torch.full_like(p, float("nan") if bad else 1.0)
        before = [p.detach().clone() for p in layer.parameters()]
        moments = [v.clone() for part in optimizer.parts.values() for s in part.state.values() for v in s.values()]
        masked_step(optimizer, torch.tensor(float(bad)))
        after = [v for part in optimizer.parts.values() for s in part.state.values() for v in s.values()]
        changed = [not torch.equal(p, b) for p, b in zip(layer.parameters(), before)]
        if bad:
            assert not any(changed) and all(torch.equal(a, b) for a, b in zip(after, moments))
        else:
            assert all(changed) and all(bool(torch.isfinite(v).all()) for v in after)


def test_a_loaded_state_of_muon_steps_on_with_the_rate_that_is_set():
    def run(break_at):
        torch.manual_seed(0)
        layer = torch.nn.Linear(3, 2)
        optimizer = build_optimizer(layer, 0.1, 0.05, 0.99, name="muon")
        for step in range(4):
            if step == break_at:
                state, optimizer = optimizer.state_dict(), build_optimizer(layer, 9.0, 0.05, 0.99, name="muon")
                load_state(optimizer, state)
            for group in optimizer.param_groups:
                group["lr"] = 0.1 / (step + 1)
            for p in layer.parameters():
                p.grad = torch.full_like(p, 1.0 + step)
            masked_step(optimizer, torch.zeros(()))
        return layer

    for a, b in zip(run(break_at=None).parameters(), run(break_at=2).parameters()):
        assert torch.equal(a, b)


@pytest.mark.parametrize("shapes", [[(24, 12), (12, 24), (24, 12)], [(16, 16)], [(1, 5), (5, 1)]])
def test_muon_is_that_of_torch_in_32_bits_and_takes_its_states(shapes, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.float)
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("Muon came with torch 2.9")

    def step_of(optimizer, matrices, step):
        torch.manual_seed(step)
        for matrix in matrices:
            matrix.grad = torch.randn_like(matrix)
        before = [m.detach().clone() for m in matrices]
        optimizer.step()
        return torch.cat([(m.detach() - b).flatten() for m, b in zip(matrices, before)])

    def matrices():
        torch.manual_seed(9)
        return [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]

    mine, theirs = matrices(), matrices()
    ours = Muon(mine, lr=0.01, weight_decay=0.1)
    torchs = torch.optim.Muon(
        theirs, lr=0.01, weight_decay=0.1, momentum=0.95, ns_steps=5, adjust_lr_fn="match_rms_adamw"
    )
    for step in range(4):
        a, b = step_of(ours, mine, step), step_of(torchs, theirs, step)
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)
    state = torchs.state_dict()
    ours.load_state_dict(copy.deepcopy(state))
    torchs.load_state_dict(copy.deepcopy(ours.state_dict()))
    with torch.no_grad():
        for a, b in zip(mine, theirs):
            a.copy_(b)
    a, b = step_of(ours, mine, 9), step_of(torchs, theirs, 9)
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def test_orthogonal_is_the_polynomial_of_the_singular_values():
    torch.manual_seed(0)
    matrices = torch.randn(3, 6, 9, dtype=torch.float64)
    u, values, v = torch.linalg.svd(matrices, full_matrices=False)
    values = values / values.norm(dim=1, keepdim=True)
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    wanted = u @ torch.diag_embed(values) @ v
    torch.testing.assert_close(orthogonal(matrices), wanted, atol=2e-4, rtol=0)
    torch.testing.assert_close(orthogonal(matrices.mT), wanted.mT, atol=2e-4, rtol=0)


def test_norm_and_clipping():
    p = torch.nn.Parameter(torch.zeros(2))
    p.grad = torch.tensor([3.0, 4.0])
    assert gradient_norm([p]) == 5 and torch.equal(p.grad, torch.tensor([3.0, 4.0]))
    assert gradient_norm([p], 1.0) == 5
    torch.testing.assert_close(p.grad.norm(), torch.tensor(1.0), atol=1e-5, rtol=0)
