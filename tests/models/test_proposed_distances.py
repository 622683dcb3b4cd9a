"""What the decoder is told of a shape model's fit: the distances, the rows of the latents that hold it, the field."""

import numpy as np
import pytest
import torch
from helpers.ball_shapes import CENTRES, ball_arrays, ball_model, ball_points, radii

from vecset.common.structure_state import State
from vecset.data.shape_model_file import sizes_of
from vecset.models.autoencoder import build_model
from vecset.models.embedding import surface_features
from vecset.models.proposed_distances import ProposedDistances
from vecset.models.shape_model import CLIP

WEIGHTS = [1.0, -0.5]


@pytest.fixture
def places():
    return torch.tensor(np.random.default_rng(0).uniform(-1, 1.2, (2, 300, 3)), dtype=torch.float32)


def heart(given, scale=1.5, count=60):
    """Features (1, N, 7) of what is given of the balls, in a frame `scale` times smaller than the model's."""
    points = torch.tensor(ball_points(WEIGHTS, count)[given].reshape(1, -1, 3) / scale, dtype=torch.float32)
    return surface_features(points, torch.tensor(np.repeat(given, count)[None]) + 1, 4)


def states_of(**others):
    states = torch.full((1, 4), int(State.GIVEN))
    for number, state in others.items():
        states[0, int(number[1:])] = state
    return states


def network(**options):
    torch.manual_seed(0)
    shapes = {"shape_model": sizes_of(ball_arrays()), **options}
    plain = {"anchors": True, "rotary": True, "decoder_layers": 1, "fps_class_gap": 2.0, "states": True}
    model = build_model("point_vec12x4_dim64_depth1_nb", 4, **plain, **shapes).eval()
    model.shape_model.load(ball_arrays())
    torch.manual_seed(1)
    torch.nn.init.normal_(model.to_outputs[1].weight, std=0.1)
    return model


def learned(model):
    torch.manual_seed(2)
    torch.nn.init.normal_(model.proposed_distances.tell[2].weight, std=0.3)
    return model


def test_distances_of_a_field_are_those_of_the_weights_with_their_slopes(places):
    model, weights = ball_model(), torch.tensor([WEIGHTS, [0.3, 2.0]])
    places.requires_grad_(True)
    found = model.distances_in(model.field_of(weights), places)
    for c in range(4):
        classes = torch.full(places.shape[:2], c)
        distance, slope, _ = model.distances(places.detach(), classes, weights)
        torch.testing.assert_close(found[..., c], distance, atol=2e-6, rtol=0)
        mine = torch.autograd.grad(found[..., c].sum(), places, retain_graph=True)[0]
        inside = (mine != 0).all(-1)  # beyond a grid the distance is that of its border
        assert inside.float().mean() > 0.05
        torch.testing.assert_close(mine[inside], slope[inside], atol=2e-4, rtol=0)


@pytest.mark.parametrize("code_dim", [5, 7, 40])
def test_a_fit_is_read_back_from_the_rows_that_hold_it(places, code_dim):
    model = ball_model()
    told = ProposedDistances(4, model.num_modes, 16, code_dim)
    fit = model.fit(heart([0, 1, 2])[..., :3].repeat(2, 1, 1), torch.arange(3).repeat_interleave(60).repeat(2, 1))
    wanted = torch.tensor([[False, False, False, True], [False] * 4])
    rows = told.rows_of(fit, wanted)
    assert rows.shape == (2, told.num_rows, code_dim) and 18 <= told.num_rows * code_dim < 18 + code_dim
    assert not rows[1].any(), "nothing of a heart that nothing is to be inferred of"
    read = told.read(rows, model)
    assert torch.equal(read.wanted_BC, wanted)
    torch.testing.assert_close(
        places[:1] @ read.map_B33[:1].transpose(1, 2) + read.shift_B3[:1, None], fit.to_model(places)[:1]
    )
    torch.testing.assert_close(read.field_BV[0], model.field_of(fit.weights_BK)[0])
    with torch.no_grad():
        assert told.read(rows[1:], model) is None and told.read(rows, model) is not None


def test_a_query_is_told_the_distances_to_what_is_wanted(places):
    """The first layer is read out by hand: what goes into it are clipped distances, those of balls."""
    model = ball_model()
    told = ProposedDistances(4, 2, 10, 20)
    told.tell = torch.nn.Identity()
    fit = model.fit(heart([0, 1, 2, 3])[..., :3], torch.arange(4).repeat_interleave(60)[None])
    wanted = torch.tensor([[False, True, False, True]])
    found = told(model, told.read(told.rows_of(fit, wanted), model), places[:1] / 1.5)[0]
    away = np.linalg.norm(places[0].numpy()[:, None] - CENTRES, axis=-1) - radii(WEIGHTS)
    expected = np.where(wanted.numpy(), np.clip(away, -CLIP, CLIP) / CLIP, 1.0)
    within = (np.abs(away[:, [1, 3]]) < 0.15).any(1)  # inside the grids
    np.testing.assert_allclose(found[within, 2:6], expected[within], atol=0.15)
    torch.testing.assert_close(found[:, 6:], torch.tanh(4 * found[:, 2:6]))
    torch.testing.assert_close(found[:, 0], found[:, 2:6].amin(-1))
    torch.testing.assert_close(found[:, 1], torch.tanh(4 * found[:, 0]))


def test_a_new_network_is_the_same_function_as_one_that_is_told_nothing(places):
    plain, told = network(), network(fit_at_queries=True)
    missing = told.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert all(name.startswith("proposed_distances.") for name in missing) and missing
    features, states = heart([0, 1, 2]), states_of(_3=State.UNKNOWN)
    latents = [model.encode(features, states_BC=states) for model in (plain, told)]
    assert torch.equal(latents[1][:, :12], latents[0]) and told.stored_rows == latents[1].shape[1] - 12 > 0
    for one, other in zip(*(m.decode(m.process_latents(x), places[:1]) for m, x in zip((plain, told), latents))):
        assert torch.equal(one, other)


def test_the_fit_counts_where_something_is_to_be_inferred_and_nowhere_else(places):
    model = learned(network(fit_at_queries=True))
    for given, states, differs in (
        ([0, 1, 2, 3], states_of(), False),
        ([0, 1, 2], states_of(_3=State.ABSENT), False),
        ([0, 1, 2], states_of(_3=State.UNKNOWN), True),
        ([0, 1, 2, 3], states_of(_1=State.CUT), True),
    ):
        latents = model.encode(heart(given), states_BC=states)
        without = torch.cat([latents[:, :12], torch.zeros_like(latents[:, 12:])], 1)
        fields = []
        for numbers in (latents, without):
            context = model.process_latents(numbers)
            fields.append(
                torch.cat([model.decode(context, places[:1])[1][0], model.decode(context, places[:1])[0].T], 1)
            )
        assert torch.equal(*fields) != differs
        with torch.no_grad():  # and a pass without gradients, which leaves out what is not wanted, is the same
            quick = model.decode(model.process_latents(latents), places[:1])[1][0]
        torch.testing.assert_close(quick, fields[0][:, :4])


def test_the_slope_has_that_of_what_is_told(places):
    model = learned(network(fit_at_queries=True))
    context = model.process_latents(model.encode(heart([0, 1, 2]), states_BC=states_of(_3=State.UNKNOWN)))
    queries = (places[:1] / 2).requires_grad_(True)
    slope = model.sdf_gradient(context, queries.detach())
    by_autograd = torch.autograd.grad(model.decode(context, queries)[0].sum(), queries)[0]
    torch.testing.assert_close(slope, by_autograd, rtol=1e-3, atol=1e-3 * float(by_autograd.detach().abs().max()))
    slope.square().sum().backward()
    assert model.proposed_distances.tell[0].weight.grad.abs().sum() > 0


def test_a_gradient_of_the_field_leaves_the_fit_alone(places):
    model = learned(network(fit_at_queries=True))
    outputs = model(heart([0, 1, 2]), places[:1], states_BC=states_of(_3=State.UNKNOWN))
    outputs["sdf_BQ"].square().sum().backward()
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert {"proposed_distances", "state_embed", "point_embed", "layers"} <= trained
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
