"""The written-out slope of attention against autograd on plain attention, and what it keeps in memory."""

import pytest
import torch

from vecset.models import attention_slope as module
from vecset.models.attention_slope import attention_slope
from vecset.models.double_backward import slope_by_autograd


def leaves(dtype, B=2, H=3, Q=23, K=17, d=8):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(B, H, n, d, generator=generator, dtype=torch.float64).to(dtype).requires_grad_(True)
        for n in (Q, K, K, Q)
    ]


@pytest.mark.parametrize("block", [1, 5, 23])
@pytest.mark.parametrize("dtype, close", [(torch.float64, 1e-13), (torch.float32, 1e-6)])
def test_value_and_gradients_are_those_of_autograd(dtype, close, block, monkeypatch):
    monkeypatch.setitem(module._BUFFER, "cpu", 2 * 3 * 17 * block)  # the last block of five is one of three
    inputs, found = leaves(dtype), []
    weight = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    for kernel in (attention_slope, slope_by_autograd):
        slope = kernel(*inputs, 0.3)
        found.append([slope, *torch.autograd.grad((slope * weight).sum(), inputs)])
    for what, one, other in zip(["slope", "q", "k", "v", "r"], *found):
        assert other.norm() > 0 and (one - other).norm() <= close * other.norm(), what


def test_gradients_are_those_of_central_differences():
    torch.autograd.gradcheck(lambda *inputs: attention_slope(*inputs, 0.3), leaves(torch.float64, 1, 2, 4, 3, 3))


def test_inputs_that_share_memory_or_are_not_in_order_are_taken_as_they_are():
    generator = torch.Generator().manual_seed(2)
    q, k, v, r = (torch.randn(2, n, 3, 8, generator=generator).transpose(1, 2) for n in (5, 7, 7, 5))  # heads inside
    k = k[:, :1].expand(-1, 3, -1, -1)
    r = r[:, :, :1].expand(-1, -1, 5, -1)
    inputs = [x.detach().requires_grad_(True) for x in (q, k, v, r)]
    torch.testing.assert_close(attention_slope(*inputs, 0.3), slope_by_autograd(*inputs, 0.3), rtol=1e-5, atol=1e-6)


def test_nothing_of_the_size_of_queries_times_keys_is_kept_and_it_is_differentiated_once_only():
    inputs, kept = leaves(torch.float32, 1, 2, 60, 50, 4), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        slope = attention_slope(*inputs, 0.3)
    assert kept and max(kept) <= 2 * 60 * 4
    gradient = torch.autograd.grad((slope * inputs[3]).sum(), inputs[0], create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):  # a third derivative is refused, not made up
        gradient.sum().backward()
