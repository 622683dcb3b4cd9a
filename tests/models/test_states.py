"""The network that is told the state of every class."""

import pytest
import torch
from helpers.variant_models import batch, randomised

from vecset.common.errors import InputError
from vecset.common.structure_state import State
from vecset.models.autoencoder import build_model, option_words
from vecset.models.embedding import surface_features

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
    assert missing.missing_keys == ["state_embed"] and not missing.unexpected_keys
    states = torch.randint(0, len(State), (2, 10))
    assert torch.equal(model.encode(surface, states_BC=states), plain.encode(surface))


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
