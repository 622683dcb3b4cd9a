"""The joint network with signed distances to the classes beside, or in place of, their logits."""

import pytest
import torch
from helpers.ball_hearts import ball_heart_batch

from vecset.common.errors import InputError
from vecset.common.structure_state import ABSENT_DISTANCE
from vecset.models.autoencoder import EXTENSIONS, build_model, option_words
from vecset.models.embedding import surface_features
from vecset.models.labels import UNKNOWN_LOGIT, labels_of

NAME = "point_vec6x4_dim32_depth1_nb"


def network(class_outputs, seed=0):
    torch.manual_seed(seed)
    model = build_model(NAME, 3, class_outputs=class_outputs, decoder_layers=1)
    with torch.no_grad():
        for parameter in model.to_outputs.parameters():
            parameter.normal_(0, 0.3)
    return model.eval()


def decoded(model):
    data = ball_heart_batch()
    surface = surface_features(data["surface_points"], data["surface_labels"], 3)
    with torch.no_grad():
        outputs = model(surface, data["query_points"])
        context = model.process_latents(model.encode(surface))
        return outputs, model.decode(context, data["query_points"]), model.decode_fields(context, data["query_points"])


@pytest.mark.parametrize("class_outputs, numbers", [("logits", 4), ("distances", 4), ("both", 7)])
def test_what_comes_out(class_outputs, numbers):
    model = network(class_outputs)
    outputs, (sdf, logits), fields = decoded(model)
    assert model.to_outputs[1].out_features == numbers
    assert sdf.shape == (2, 60) and logits.shape == (2, 60, 3)
    for one, other in zip((sdf, logits), fields):
        assert torch.equal(one, other)
    torch.testing.assert_close(outputs["sdf_BQ"], sdf)
    torch.testing.assert_close(outputs["logits_BQC"], logits)
    assert model.has_class_distances == ("class_sdf_BQC" in outputs) == (fields[2] is not None)
    if model.has_class_distances:
        torch.testing.assert_close(outputs["class_sdf_BQC"], fields[2])


def test_the_smallest_distance_is_the_label_and_a_claim_is_a_positive_logit():
    _, (sdf, logits), (_, _, class_sdf) = decoded(network("distances"))
    torch.testing.assert_close(logits, -class_sdf / 0.01)
    labels = labels_of(torch.full_like(sdf, -1.0), logits)
    assert torch.equal(labels.long(), class_sdf.argmin(-1) + 1) and len(labels.unique()) > 1
    assert torch.equal(logits > 0, class_sdf < 0)


def test_logits_beside_distances_are_numbers_of_their_own():
    model = network("both")
    _, (_, logits), (_, _, class_sdf) = decoded(model)
    with torch.no_grad():
        model.to_outputs[1].bias[4:] += 1.0
    _, (_, same), (_, _, other) = decoded(model)
    assert torch.equal(same, logits)
    torch.testing.assert_close(other, class_sdf + 1)


@pytest.mark.parametrize("class_outputs", ["distances", "both"])
def test_a_class_that_nothing_is_known_of_is_far_and_never_the_label(class_outputs):
    model = network(class_outputs)
    model.set_known_classes([True, False, True])
    _, (_, logits), (_, _, class_sdf) = decoded(model)
    assert (class_sdf[..., 1] == ABSENT_DISTANCE).all() and (logits[..., 1] == UNKNOWN_LOGIT).all()
    assert not (logits.argmax(-1) == 1).any()


def test_the_union_is_that_of_the_network_with_logits():
    """The same weights give the same distance, whatever stands for the classes."""
    one, other = network("logits"), network("both")
    state = one.state_dict()
    rows = {name: other.state_dict()[name] for name in ("to_outputs.1.weight", "to_outputs.1.bias")}
    for name, value in rows.items():
        value[:4] = state[name]
    other.load_state_dict({**state, **rows})
    torch.testing.assert_close(decoded(other)[1][0], decoded(one)[1][0])
    torch.testing.assert_close(decoded(other)[1][1], decoded(one)[1][1])


def test_options_by_name():
    assert option_words({**EXTENSIONS}) == ""
    assert option_words({**EXTENSIONS, "class_outputs": "both", "anchors": True}) == "--anchors --class_outputs both"
    with pytest.raises(InputError, match="--class_outputs: expected logits or distances or both"):
        build_model(NAME, 3, class_outputs="all")
    with pytest.raises(InputError, match="--network"):
        build_model(NAME, 3, network="many")
