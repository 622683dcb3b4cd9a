import torch

from vecset.engines.optimizer import build_optimizer, gradient_norm, masked_step, parameter_groups
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


def test_norm_and_clipping():
    p = torch.nn.Parameter(torch.zeros(2))
    p.grad = torch.tensor([3.0, 4.0])
    assert gradient_norm([p]) == 5 and torch.equal(p.grad, torch.tensor([3.0, 4.0]))
    assert gradient_norm([p], 1.0) == 5
    torch.testing.assert_close(p.grad.norm(), torch.tensor(1.0), atol=1e-5, rtol=0)
