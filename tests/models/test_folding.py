"""Cross-attentions on folded maps against a token for every point: values and gradients of all outputs, slopes too."""

import pytest
import torch
from helpers.variant_models import VARIANTS, batch, randomised

from vecset.models.embedding import surface_features

MORE = [*VARIANTS, ("learnable_vec8x4_dim192_depth1_nb", {}), ("learnable_vec8_dim32_depth0", dict(anchors=True))]


def outputs_and_gradients(model, data, dtype):
    """The outputs of a forward pass, and the gradients of a function of all of them in every parameter."""
    surface = surface_features(data["surface_points"], data["surface_labels"], 10)
    outputs = model(surface, data["query_points"], data["query_points"][:, ::3])
    generator = torch.Generator().manual_seed(4)
    total = sum(
        (v * torch.randn(v.shape, generator=generator, dtype=torch.float64).to(dtype)).sum() for v in outputs.values()
    )
    model.zero_grad()
    total.backward()
    return (
        {name: v.detach() for name, v in outputs.items()},
        {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None},
    )


@pytest.mark.parametrize("dtype, close", [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name, options", MORE)
def test_folding_changes_no_value_and_no_gradient(name, options, dtype, close):
    if options.get("rotary") and dtype == torch.float32:
        close *= 5  # angles of 60 radians per unit: rounding of the points shows more, on both sides
    model, data = randomised(name, options, dtype).eval(), batch(dtype=dtype)
    with torch.no_grad():  # a bias and a scale that do nothing would hide a mistake in them
        for key, parameter in model.named_parameters():
            if key.endswith(("norm.weight", "norm.bias", "mlp.bias")):
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(key))))
    found, gradients = outputs_and_gradients(model, data, dtype)
    model.fold = False
    expected, slow = outputs_and_gradients(model, data, dtype)
    for key, value in expected.items():
        assert (found[key] - value).norm() <= close * value.norm() and value.norm() > 0, key
    assert gradients.keys() == slow.keys()
    for key, value in slow.items():
        assert (gradients[key] - value).norm() <= close * value.norm() and value.norm() > 0, key


def test_folding_under_autocast_is_as_near_to_float32_as_tokens_are():
    """CPU autocast stands in for CUDA's."""
    model, data = randomised("learnable_vec8x4_dim128_depth1_nb", {}).eval(), batch()
    surface = surface_features(data["surface_points"], data["surface_labels"], 10)

    def distances(fold, bf16):
        model.fold = fold
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            return model(surface, data["query_points"])["sdf_BQ"]

    exact = distances(False, False)
    folded, tokens = ((distances(fold, True) - exact).norm() for fold in (True, False))
    assert 0 < folded < 1.5 * tokens
