"""The network that is told the state of every class."""

import pytest
import torch
from helpers.variant_models import batch, randomised

from vecset.common.errors import InputError
from vecset.common.structure_state import State
from vecset.models.autoencoder import build_model, option_words
from vecset.models.embedding import surface_features
from vecset.weights.checkpoint import model_from_checkpoint

NAME = "point_vec8x4_dim128_depth1_nb"
PLACES = dict(anchors=True, rotary=True, fps_class_gap=2.0)


def told(seed=0, **options):
    model = randomised(NAME, {**PLACES, "states": True, **options}).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        model.state_embed.normal_(0, 1, generator=generator)
    return model


@pytest.mark.parametrize("name", [NAME, "learnable_vec8x4_dim32_depth1_kl"])
def test_vectors_of_zeros_are_the_network_without_states(name):
    items = batch()
    surface = surface_features(items["surface_points"], items["surface_labels"], 10)
    plain, model = build_model(name, 10).eval(), build_model(name, 10, states=True).eval()
    missing = model.load_state_dict(plain.state_dict(), strict=False)
    assert missing.missing_keys == ["state_embed", "far_slope"] and not missing.unexpected_keys
    states = torch.randint(0, len(State), (2, 10))
    assert torch.equal(model.encode(surface, states_BC=states), plain.encode(surface))
    queries = items["query_points"]
    queries = 0.99 * queries / queries.norm(dim=-1, keepdim=True).clamp_min(1)  # in the unit ball
    contexts = [network.process_latents(plain.encode(surface)) for network in (plain, model)]
    for one, other in zip(*(network.decode(context, queries) for network, context in zip((plain, model), contexts))):
        assert torch.equal(one, other)


@pytest.mark.parametrize("options", [PLACES, {}, {"class_outputs": "both"}])
def test_distances_grow_with_the_distance_from_the_unit_ball(options):
    """The reference: the network without the term, and the term by its formula; slopes by autograd of the whole."""
    name = NAME if options == PLACES else "learnable_vec8x4_dim32_depth1_kl"
    model, items = randomised(name, {**options, "states": True}).eval(), batch()
    surface = surface_features(items["surface_points"], items["surface_labels"], 10)
    with torch.no_grad():
        model.far_slope.fill_(0.7)
    context = model.process_latents(model.encode(surface, states_BC=torch.zeros(2, 10, dtype=torch.long)))
    queries = (3 * items["query_points"]).requires_grad_()
    with torch.no_grad():
        queries[:, 0] = 0
    found = model.decode_fields(context, queries)
    (slope,) = torch.autograd.grad(found[0].sum(), queries, retain_graph=True)
    torch.testing.assert_close(model.sdf_gradient(context, queries), slope, rtol=1e-4, atol=1e-5)
    assert torch.isfinite(slope).all()
    with torch.no_grad():
        model.far_slope.fill_(0)
        near = model.decode_fields(context, queries)
    far = 0.7 * (queries.norm(dim=-1) - 1).clamp_min(0)
    assert (far > 0).any() and (far == 0).any()
    torch.testing.assert_close(found[0], near[0] + far)
    if options.get("class_outputs"):
        torch.testing.assert_close(found[2], near[2] + far[..., None])
    torch.testing.assert_close(found[1], near[1])


def test_every_class_and_state_counts_by_its_own_vector():
    model, items = told(), batch()
    surface = surface_features(items["surface_points"], items["surface_labels"], 10)
    states = torch.zeros(2, 10, dtype=torch.long)
    with torch.no_grad():
        given = model.encode(surface, states_BC=states)
        for c in range(10):
            for state in list(State)[1:]:
                other = states.clone()
                other[1, c] = state
                found = model.encode(surface, states_BC=other)
                assert torch.equal(found[0], given[0])  # of the other heart nothing was said
                assert (found[1] - given[1]).abs().max() > 1e-4, (c, state)
    assert torch.equal(model._told(states)[0, 0], model.state_embed[:, 0].sum(0))


def test_every_vector_that_is_used_is_trained():
    model, items = told().train(), batch()
    surface = surface_features(items["surface_points"], items["surface_labels"], 10)
    states = torch.arange(10).remainder(len(State)).expand(2, -1)
    outputs = model(surface, items["query_points"], items["query_points"][:, :4], states_BC=states)
    (outputs["sdf_BQ"].square().mean() + outputs["gradient_BE3"].square().mean()).backward()
    used = torch.zeros(10, len(State), dtype=torch.bool)
    used[torch.arange(10), states[0]] = True
    assert torch.equal(model.state_embed.grad.abs().sum(-1) > 0, used)


def test_weights_of_before_the_far_slope_give_the_network_that_was_trained():
    model, (items, states) = told(), (batch(), torch.zeros(2, 10, dtype=torch.long))
    surface = surface_features(items["surface_points"], items["surface_labels"], 10)
    with torch.no_grad():
        model.far_slope.zero_()
    state = {name: value for name, value in model.state_dict().items() if name != "far_slope"}
    config = {"name": NAME, "num_classes": 10, **PLACES, "states": True}
    loaded = model_from_checkpoint({"model_config": config, "model": state})
    queries = 2 * items["query_points"]
    for one, other in zip(*(m(surface, queries, states_BC=states).values() for m in (model, loaded))):
        assert torch.equal(one, other)


def test_states_where_they_are_not_expected_are_a_defect():
    items = batch()
    surface = surface_features(items["surface_points"], items["surface_labels"], 10)
    with pytest.raises(ValueError, match="are missing"):
        told().encode(surface)
    with pytest.raises(ValueError, match="for a network without"):
        randomised(NAME, PLACES).encode(surface, states_BC=torch.zeros(2, 10, dtype=torch.long))
    with pytest.raises(InputError, match="--observe: it has no meaning with --network parts"):
        build_model("point_vec20x4_dim32_depth2_nb", 10, network="parts", states=True)
    assert option_words({"states": True}) == "--observe"
