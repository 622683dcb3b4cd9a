"""Rotary attention against its reference, what it does not see, and latents that cover every structure."""

import math

import pytest
import torch

from vecset.common.errors import InputError
from vecset.models.attention import ROTARY_WAVELENGTHS, Attention, Places, rotary_frequencies, rotate, turns
from vecset.models.autoencoder import build_model
from vecset.models.embedding import farthest_point_sampling, surface_features

POINT = "point_vec8x4_dim128_depth1_nb"


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


def test_directions_and_wavelengths_cover_what_they_should():
    frequencies = rotary_frequencies(4, 32).double()
    assert frequencies.shape == (4, 3, 32)
    longest, shortest = ROTARY_WAVELENGTHS
    for head in frequencies:
        waves = 2 * math.pi / head.norm(dim=0)
        assert waves.max() == pytest.approx(longest, rel=0.1) and waves.min() == pytest.approx(shortest, rel=0.1)
    directions = (frequencies / frequencies.norm(dim=1, keepdim=True)).permute(1, 0, 2).flatten(1)
    spread = torch.linalg.eigvalsh(directions @ directions.T / directions.shape[1])
    assert spread.min() > 0.25 and spread.max() < 0.42  # a third each where they are even


def test_turning_back_undoes_turning_and_keeps_lengths():
    x, at, frequencies = uniform(2, 3, 5, 8), uniform(2, 5, 3, seed=1), rotary_frequencies(3, 4).double()
    turn = turns(at, frequencies)
    turned = rotate(x, turn)
    torch.testing.assert_close(rotate(turned, turn.back()), x)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert (turned - x).abs().max() > 0.1


def test_in_16_bit_it_is_the_same_but_for_rounding():
    x, at, frequencies = uniform(2, 3, 5, 8).float(), uniform(2, 5, 3, seed=1).float(), rotary_frequencies(3, 4)
    turn = turns(at, frequencies)
    half = rotate(x.bfloat16(), turn)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), rotate(x, turn), atol=0.02, rtol=0.02)
    by_formula = rotate(x.bfloat16(), turn._replace(complex_BHTP=None))
    torch.testing.assert_close(half, by_formula, atol=0.02, rtol=0.02)


def test_attention_is_that_of_complex_numbers_pair_by_pair():
    """The reference: one query and one head at a time, channel pairs as complex numbers, places only as differences."""
    torch.manual_seed(0)
    layer = Attention(128, 128, rotary=True).double()
    x, context, at, to = (
        uniform(1, 4, 128),
        uniform(1, 6, 128, seed=1),
        uniform(1, 4, 3, seed=2),
        uniform(1, 6, 3, seed=3),
    )
    gain = torch.tensor([2.0, 7.0], dtype=torch.float64)
    found = layer(x, context=context, places=Places(at, to, gain))
    q = layer.to_q(x)[0].view(4, 2, 64)
    k, v = (half[0].view(6, 2, 64) for half in layer.to_kv(context).chunk(2, -1))
    read = torch.zeros(4, 2, 64, dtype=torch.float64)
    for i in range(4):
        for h in range(2):
            offset = to[0] - at[0, i]  # (6, 3): all that is seen of places
            turn = torch.exp(1j * (offset @ layer.frequencies[h]))  # (6, 32)
            pair = {name: torch.complex(z[:, h, 0::2], z[:, h, 1::2]) for name, z in (("q", q), ("k", k), ("v", v))}
            likeness = (pair["q"][i].conj() * pair["k"] * turn).real.sum(-1) * layer.scale
            weight = torch.softmax(likeness - gain[h] * offset.square().sum(-1), 0)
            value = (weight.unsqueeze(-1) * pair["v"] * turn).sum(0)
            read[i, h] = torch.view_as_real(value).flatten()
    torch.testing.assert_close(found[0], layer.to_out(read.flatten(-2)), rtol=1e-9, atol=1e-9)


def test_moving_queries_and_keys_together_changes_nothing():
    torch.manual_seed(0)
    layer = Attention(128, 128, rotary=True).double()
    x, context, at, to = (
        uniform(2, 4, 128),
        uniform(2, 6, 128, seed=1),
        uniform(2, 4, 3, seed=2),
        uniform(2, 6, 3, seed=3),
    )
    move = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
    here = layer(x, context=context, places=Places(at, to))
    torch.testing.assert_close(layer(x, context=context, places=Places(at + move, to + move)), here)
    assert (layer(x, context=context, places=Places(at + move, to)) - here).abs().max() > 1e-3


def test_every_structure_gets_latents_of_its_own():
    """A big ball and a thin tube that lies on it: spread by place alone the tube gets hardly any."""
    generator = torch.Generator().manual_seed(0)
    ball = torch.nn.functional.normalize(torch.randn(3000, 3, generator=generator), dim=-1)
    angle = torch.rand(600, generator=generator) * math.pi
    tube = torch.stack([angle.cos(), angle.sin(), 0 * angle], -1) + 0.02 * torch.randn(600, 3, generator=generator)
    points = torch.cat([ball, tube]).unsqueeze(0) * 0.9
    labels = torch.cat([torch.ones(3000), torch.full((600,), 2.0)]).long().unsqueeze(0)
    surface = surface_features(points, labels, 2)

    def anchors_of_tube(**options):
        latents = build_model("point_vec64x4_dim32_depth1_nb", 2, anchors=True, **options).encode(surface)
        nearest = torch.cdist(latents[0, :, -3:], points[0]).argmin(1)
        return int((labels[0, nearest] == 2).sum())

    # its half circle is 2.8 long, and 64 points at equal distance on a ball of radius 0.9 lie about 0.4 apart
    assert anchors_of_tube(fps_class_gap=2.0) >= 5
    assert anchors_of_tube(fps_class_gap=2.0) > anchors_of_tube()
    # three times as dense on a line: up to three times as many, while the ball still has most
    assert 1.5 * anchors_of_tube(fps_class_gap=2.0) <= anchors_of_tube(fps_class_gap=2.0, fps_density="2:3") <= 30
    assert anchors_of_tube(fps_class_gap=2.0, fps_density="2:1,1:1") == anchors_of_tube(fps_class_gap=2.0)


def test_density_is_farthest_point_sampling_of_each_class_stretched():
    """The reference: every distance written out, point by point; a class's own distances stretched by its factor."""
    points, labels = uniform(1, 60, 3), torch.arange(60).view(1, -1) % 3
    density, gap = torch.tensor([1.0, 2.5, 0.5]), 2.0
    chosen = farthest_point_sampling(points, 12, labels, gap, density)[0].tolist()
    expected = [int((points[0] - points[0].mean(0)).norm(dim=-1).argmax())]
    while len(expected) < 12:
        nearest = [
            min(
                math.hypot(
                    float(density[labels[0, i]]) * math.dist(points[0, i], points[0, j]),
                    gap * float(labels[0, i] != labels[0, j]),
                )
                for j in expected
            )
            for i in range(60)
        ]
        expected.append(max(range(60), key=nearest.__getitem__))
    assert chosen == expected


def test_options_that_contradict_each_other_are_refused():
    with pytest.raises(InputError, match="only latents with places"):
        build_model(POINT, 10, rotary=True)
    with pytest.raises(InputError, match="dim must be even"):
        build_model("point_vec8x4_dim33_depth1_nb", 10, anchors=True, rotary=True)
    with pytest.raises(InputError, match="point queries"):
        build_model("learnable_vec8x4_dim128_depth1_nb", 10, anchors=True, fps_class_gap=1.0)
    with pytest.raises(InputError, match="only with --fps_class_gap"):
        build_model(POINT, 10, anchors=True, fps_density="9:3")
    for wrong in ("11:2", "0:2", "9", "9:0", "9:x", "9:3,,", "Coronary:3"):
        with pytest.raises(InputError, match="--fps_density: expected CLASS:FACTOR"):
            build_model(POINT, 10, anchors=True, fps_class_gap=2.0, fps_density=wrong)
