"""A kernel that cannot be differentiated twice is refused at the start, with its name, whichever way it fails."""

import functools

import pytest
import torch
import torch.nn.functional as F
from helpers.ball_cases import tiny_arguments, write_ball_cases

from vecset.common.errors import EXIT_BAD_INPUT, InputError, run_command
from vecset.main_ae import main
from vecset.models import attention, attention_slope
from vecset.models.double_backward import check_double_backward, slope_by_autograd


def slope_of(kernel):
    """The slope as a first backward of `kernel`, under its name."""

    @functools.wraps(kernel)
    def slope(q, k, v, r, scale):
        return torch.autograd.grad(kernel(q, k, v, scale), q, r, create_graph=True)[0]

    return slope


class ConstantBackward(torch.autograd.Function):
    """Like the flash-attn package: the gradient is right, and a constant to whoever differentiates it again."""

    @staticmethod
    def forward(ctx, q, k, v, scale):
        ctx.save_for_backward(q, k, v)
        ctx.scale = scale
        return attention.plain_attention(q, k, v, scale)

    @staticmethod
    def backward(ctx, gradient):
        with torch.enable_grad():
            leaves = [t.detach().requires_grad_(True) for t in ctx.saved_tensors]
            out = attention.plain_attention(*leaves, ctx.scale)
            return (*(g.detach() for g in torch.autograd.grad(out, leaves, gradient.detach())), None)


def constant_backward(q, k, v, scale):
    return ConstantBackward.apply(q, k, v, scale)


def raising_backward(q, k, v, scale):
    return F.scaled_dot_product_attention(q, k, v, scale=scale)


class Forgetful(torch.autograd.Function):
    """The product of weights and values; its backward is right but forgets the values in the second one."""

    @staticmethod
    def forward(ctx, weights, v):
        ctx.save_for_backward(weights, v)
        return weights @ v

    @staticmethod
    def backward(ctx, gradient):
        weights, v = ctx.saved_tensors
        return gradient @ v.detach().mT, weights.mT @ gradient


def forgetful_backward(q, k, v, scale):
    return Forgetful.apply(torch.softmax(q @ k.mT * scale, -1), v)


def detached_slope(q, k, v, r, scale):
    """The value is right, and a constant to the loss."""
    return attention_slope.attention_slope(q, k, v, r, scale).detach() + 0 * (q.sum() + k.sum() + v.sum() + r.sum())


def test_the_kernel_in_use_passes():
    check_double_backward("cpu")
    check_double_backward("cpu", attention_slope.attention_slope)
    check_double_backward("cpu", slope_by_autograd)


BAD = [slope_of(constant_backward), slope_of(raising_backward), slope_of(forgetful_backward), detached_slope]


@pytest.mark.parametrize("kernel", BAD)
def test_the_others_are_refused_by_name(kernel):
    with pytest.raises(InputError, match=kernel.__name__):
        check_double_backward("cpu", kernel)


@pytest.mark.parametrize("kernel", BAD)
def test_a_run_with_such_a_kernel_does_not_start(kernel, tmp_path, monkeypatch, capsys):
    data = write_ball_cases(tmp_path / "data", train=2, val=1)
    monkeypatch.setattr(attention_slope, "slope_kernel", kernel)
    assert run_command(main, tiny_arguments(data, tmp_path / "out")) == EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert kernel.__name__ in error and "differentiated twice" in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
    without = tiny_arguments(data, tmp_path / "out", "--eikonal_weight", 0, "--epochs", 2, "--max_steps", 1)
    assert main(without) == 0  # nothing differentiates it twice there


def test_the_constant_backward_looks_right_to_the_loss():
    """Why the check exists: value and first gradient of the bad kernel are those of the good one."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 1, 4, 8, requires_grad=True) for _ in range(3))
    good, bad = (kernel(q, k, v, 0.3) for kernel in (attention.plain_attention, constant_backward))
    torch.testing.assert_close(bad, good)
    torch.testing.assert_close(torch.autograd.grad(bad.sum(), q), torch.autograd.grad(good.sum(), q))
