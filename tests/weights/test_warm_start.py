"""`--init_from`: published weights compute here what they compute in a plain network written from their description."""

import argparse
import math
import os

import pytest
import torch
from helpers.ball_cases import tiny_arguments, write_ball_cases

from vecset.common.errors import EXIT_BAD_INPUT, InputError, run_command
from vecset.main_ae import main
from vecset.models.autoencoder import build_model, parse_model_name
from vecset.models.embedding import farthest_point_sampling, surface_features
from vecset.weights.checkpoint import load_checkpoint
from vecset.weights.warm_start import load_initial_weights, model_name

NAMES = [
    "learnable_vec8x4_dim128_depth2_nb",
    "point_vec8x4_dim128_depth1_nb",
    "learnable_vec6_dim64_depth1",
    "point_vec6_dim128_depth2",
    "learnable_vec8x4_dim64_depth1_kl",
    "point_vec8x4_dim64_depth0_kl",
]
HEAD = 64


# --- the published network, from the description: a state (dict of tensors) and plain float32 arithmetic


def published_state(name, seed=0):
    """Random weights under the published keys, none of them zero."""
    sizes = parse_model_name(name)
    D, L, M = sizes["dim"], sizes["code_dim"], sizes["num_latents"]
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape, scale=None):
        return torch.randn(*shape, generator=generator) * (scale or shape[-1] ** -0.5)

    state = {}

    def linear(key, inputs, outputs, bias=True):
        state[f"{key}.weight"] = draw(outputs, inputs)
        if bias:
            state[f"{key}.bias"] = draw(outputs, scale=0.1)

    def norm(key):
        state[f"{key}.weight"], state[f"{key}.bias"] = 1 + draw(D, scale=0.1), draw(D, scale=0.1)

    def attention(key):
        norm(f"{key}.norm")
        linear(f"{key}.fn.to_q", D, D, bias=False)
        linear(f"{key}.fn.to_kv", D, 2 * D, bias=False)
        linear(f"{key}.fn.to_out", D, D)

    def feed_forward(key):
        norm(f"{key}.norm")
        linear(f"{key}.fn.net.0", D, 8 * D)
        linear(f"{key}.fn.net.2", 4 * D, D)

    basis = torch.zeros(3, 24)
    for axis in range(3):
        for k in range(8):
            basis[axis, 8 * axis + k] = 2**k * math.pi
    state["point_embed.basis"] = basis
    linear("point_embed.mlp", 51, D)
    if sizes["query_type"] == "learnable":
        state["latents.weight"] = draw(M, D, scale=1.0)
    attention("cross_attend_blocks.0")
    feed_forward("cross_attend_blocks.1")
    if sizes["bottleneck"] == "nb":
        linear("bottleneck.pre_bottleneck_proj", D, L)
        state["bottleneck.gamma"], state["bottleneck.beta"] = 1 + draw(L, scale=0.1), draw(L, scale=0.1)
    elif sizes["bottleneck"] == "kl":
        linear("bottleneck.mean_proj", D, L)
        linear("bottleneck.logvar_proj", D, L)
    if sizes["bottleneck"]:
        linear("bottleneck.post_bottleneck_proj", L, D)
    for i in range(sizes["depth"]):
        attention(f"layers.{i}.0")
        feed_forward(f"layers.{i}.1")
    attention("decoder_cross_attn")
    norm("to_outputs.0")
    linear("to_outputs.1", D, 1)
    return state


def published_distance(state, surface_BN3, queries_BQ3, chosen_BM=None):
    """(B, Q) distances. `chosen_BM`: which surface points ask, where the queries are not learnable."""

    def linear(key, x):
        y = x @ state[f"{key}.weight"].T
        return y + state[f"{key}.bias"] if f"{key}.bias" in state else y

    def standard(x, eps):
        mean = x.mean(-1, keepdim=True)
        return (x - mean) / ((x - mean) ** 2).mean(-1, keepdim=True).add(eps).sqrt()

    def norm(key, x):
        return standard(x, 1e-5) * state[f"{key}.weight"] + state[f"{key}.bias"]

    def embed(points):
        phases = [points[..., axis : axis + 1] * 2**k * math.pi for axis in range(3) for k in range(8)]
        sines, cosines = torch.cat([p.sin() for p in phases], -1), torch.cat([p.cos() for p in phases], -1)
        return linear("point_embed.mlp", torch.cat([sines, cosines, points], -1))

    def attention(key, x, context=None):
        """Pre-norm; keys and values come from the normed input, in cross-attention from an un-normed context."""
        x = norm(f"{key}.norm", x)
        q, kv = linear(f"{key}.fn.to_q", x), linear(f"{key}.fn.to_kv", x if context is None else context)
        D = q.shape[-1]
        k, v = kv[..., :D], kv[..., D:]
        heads = []
        for h in range(0, D, HEAD):
            logits = torch.einsum("bid,bjd->bij", q[..., h : h + HEAD], k[..., h : h + HEAD]) / math.sqrt(HEAD)
            weights = (logits - logits.max(-1, keepdim=True).values).exp()
            heads.append(torch.einsum("bij,bjd->bid", weights / weights.sum(-1, keepdim=True), v[..., h : h + HEAD]))
        return linear(f"{key}.fn.to_out", torch.cat(heads, -1))

    def feed_forward(key, x):
        wide = linear(f"{key}.fn.net.0", norm(f"{key}.norm", x))
        value, gate = wide[..., : wide.shape[-1] // 2], wide[..., wide.shape[-1] // 2 :]
        return linear(f"{key}.fn.net.2", value * gate * 0.5 * (1 + torch.erf(gate / math.sqrt(2))))

    tokens = embed(surface_BN3)
    if "latents.weight" in state:
        x = state["latents.weight"].unsqueeze(0).expand(len(tokens), -1, -1)
    else:
        x = torch.stack([tokens[b, chosen_BM[b]] for b in range(len(tokens))])
    x = attention("cross_attend_blocks.0", x, tokens) + x
    x = feed_forward("cross_attend_blocks.1", x) + x
    if "bottleneck.gamma" in state:
        latents = standard(linear("bottleneck.pre_bottleneck_proj", x), 1e-6)
        x = linear("bottleneck.post_bottleneck_proj", latents * state["bottleneck.gamma"] + state["bottleneck.beta"])
    elif "bottleneck.mean_proj.weight" in state:
        x = linear("bottleneck.post_bottleneck_proj", linear("bottleneck.mean_proj", x))
    if "latents.weight" in state:
        x = x + state["latents.weight"]
    i = 0
    while f"layers.{i}.0.norm.weight" in state:
        x = attention(f"layers.{i}.0", x) + x
        x = feed_forward(f"layers.{i}.1", x) + x
        i += 1
    x = attention("decoder_cross_attn", embed(queries_BQ3), x)
    return linear("to_outputs.1", norm("to_outputs.0", x))[..., 0]


def points(seed=1, B=2, N=50, Q=30):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.rand(B, N, 3, generator=generator) * 2 - 1,
        torch.randint(1, 11, (B, N), generator=generator),
        torch.rand(B, Q, 3, generator=generator) * 2 - 1,
    )


def warm(name, state, path, classes=10):
    torch.save(state, path)
    config = {"name": name, "num_classes": classes, "anchors": False, "decoder_layers": 0}
    model = build_model(**config).eval()
    load_initial_weights(model, config, path)
    return model


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_warm_start_computes_the_published_distance(name, wrapped, tmp_path):
    state = published_state(name)
    file = {"model": state, "epoch": 3, "args": argparse.Namespace(lr=1e-4)} if wrapped else state
    model = warm(name, file, tmp_path / "ae.pth")
    surface, labels, queries = points()
    chosen = farthest_point_sampling(surface, parse_model_name(name)["num_latents"])
    with torch.no_grad():
        expected = published_distance(state, surface, queries, chosen)
        for feature in (surface_features(surface, labels, 10), surface_features(surface, labels % 10 + 1, 10)):
            outputs = model(feature, queries)  # whatever the labels: their columns are zero
            assert (outputs["sdf_BQ"] - expected).abs().max() < 1e-5 * max(1, expected.abs().max())
            assert (outputs["logits_BQC"] == 0).all()
    assert expected.std() > 0.05  # it is no constant
    assert (model.point_embed.mlp.weight[:, 51:] == 0).all() and model.point_embed.mlp.weight.shape[1] == 61
    assert (model.to_outputs[1].weight[1:] == 0).all() and model.to_outputs[1].weight.shape[0] == 11
    assert model.known_classes.all()


@pytest.mark.parametrize("name", NAMES)
def test_with_3_numbers_in_and_1_out_it_is_the_published_network(name, tmp_path):
    model, state = build_model(name, 0).eval(), published_state(name)
    model.load_state_dict(
        {
            **state,
            "query_embed.mlp.weight": state["point_embed.mlp.weight"],
            "query_embed.mlp.bias": state["point_embed.mlp.bias"],
            "query_embed.basis": state["point_embed.basis"],
            "known_classes": torch.ones(0).bool(),
        }
    )
    surface, _, queries = points(2)
    chosen = farthest_point_sampling(surface, parse_model_name(name)["num_latents"])
    with torch.no_grad():
        sdf = model(surface, queries)["sdf_BQ"]
        expected = published_distance(state, surface, queries, chosen)
    assert (sdf - expected).abs().max() < 1e-5 * max(1, expected.abs().max())


def test_the_new_columns_and_rows_learn(tmp_path):
    name = NAMES[0]
    model = warm(name, published_state(name), tmp_path / "ae.pth").train()
    surface, labels, queries = points()
    outputs = model(surface_features(surface, labels, 10), queries)
    (outputs["sdf_BQ"].square().mean() + (outputs["logits_BQC"] - 1).square().mean()).backward()
    assert (model.point_embed.mlp.weight.grad[:, 51:].abs().sum(0) > 0).all()
    assert (model.to_outputs[1].weight.grad.abs().sum(1) > 0).all()


def without(key):
    return lambda state: {k: v for k, v in state.items() if k != key}


@pytest.mark.parametrize(
    "change, model, message",
    [
        (without("layers.1.0.fn.to_q.weight"), None, "missing: layers.1.0.fn.to_q.weight"),
        (without("to_outputs.1.weight"), None, "missing: to_outputs.1.weight"),
        (without("cross_attend_blocks.0.norm.bias"), None, "missing: cross_attend_blocks.0.norm.bias"),
        (lambda state: {**state, "extra.weight": torch.zeros(2)}, None, "not known here: extra.weight"),
        (lambda state: {**state, "layers.0.0.fn.to_q.weight": torch.zeros(3, 3)}, None, "fn.to_q.weight of shape"),
        (
            lambda state: {**state, "point_embed.basis": state["point_embed.basis"] * 2},
            None,
            "another point_embed.basis",
        ),
        (lambda state: {**state, "to_outputs.1.weight": torch.zeros(4, 128)}, None, "3 in and 4 out"),
        (lambda state: {"epoch": 3}, None, "weights of a VecSet autoencoder, found a dict of epoch"),
        (lambda state: torch.zeros(3), None, "weights of a VecSet autoencoder, found Tensor"),
        (
            lambda state: state,
            "learnable_vec8x4_dim64_depth2_nb",
            "width 128, depth 2, codes of 4, 8 latents; give --model learnable_vec8x4_dim128_depth2_nb",
        ),
        (lambda state: state, "learnable_vec8x4_dim128_depth3_nb", "give --model learnable_vec8x4_dim128_depth2_nb"),
        (lambda state: state, "point_vec8x4_dim128_depth2_nb", "learnable queries"),
        (lambda state: state, "learnable_vec8x4_dim128_depth2_kl", "give --model learnable_vec8x4_dim128_depth2_nb"),
        (lambda state: state, "learnable_vec16_dim128_depth2", "give --model learnable_vec8x4_dim128_depth2_nb"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(change, model, message, tmp_path):
    state = change(published_state("learnable_vec8x4_dim128_depth2_nb"))
    with pytest.raises(InputError) as caught:
        warm(model or "learnable_vec8x4_dim128_depth2_nb", state, tmp_path / "ae.pth")
    assert message in str(caught.value) and "ae.pth" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("class_outputs, numbers", [("distances", 11), ("both", 21)])
def test_class_distances_start_at_zero_beside_the_published_distance(class_outputs, numbers, tmp_path):
    state = published_state(NAMES[0])
    torch.save(state, tmp_path / "ae.pth")
    config = {"name": NAMES[0], "num_classes": 10, "class_outputs": class_outputs}
    model, (surface, labels, queries) = build_model(**config).eval(), points()
    load_initial_weights(model, config, tmp_path / "ae.pth")
    with torch.no_grad():
        outputs = model(surface_features(surface, labels, 10), queries)
        expected = warm(NAMES[0], state, tmp_path / "logits.pth")(surface_features(surface, labels, 10), queries)
    torch.testing.assert_close(outputs["sdf_BQ"], expected["sdf_BQ"])
    assert model.to_outputs[1].weight.shape[0] == numbers and (outputs["class_sdf_BQC"] == 0).all()


@pytest.mark.parametrize("network", ["per_class", "parts"])
def test_published_weights_are_of_one_field(network, tmp_path):
    torch.save(published_state(NAMES[0]), tmp_path / "ae.pth")
    config = {"name": "learnable_vec10x4_dim128_depth2_nb", "num_classes": 10, "network": network}
    with pytest.raises(InputError, match=f"to put published weights into, found --network {network}; leave out"):
        load_initial_weights(build_model(**config), config, tmp_path / "ae.pth")


def test_options_that_the_published_network_does_not_have_are_refused(tmp_path):
    config = {"name": NAMES[0], "num_classes": 10, "anchors": True, "decoder_layers": 1}
    torch.save(published_state(NAMES[0]), tmp_path / "ae.pth")
    with pytest.raises(InputError, match="leave out --anchors and --decoder_layers"):
        load_initial_weights(build_model(**config), config, tmp_path / "ae.pth")


@pytest.mark.parametrize("name", [*NAMES, "learnable_vec1024x16_dim1024_depth24_sdf_nb"])
def test_model_name_is_the_other_direction_of_the_parser(name):
    assert model_name(parse_model_name(name)) == name.replace("_sdf", "")


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ("it-ran",)


def test_a_file_of_weights_cannot_run_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError):
        warm(NAMES[0], {"model": published_state(NAMES[0]), "args": RunsCode()}, "ae.pth")
    assert not (tmp_path / "it-ran").exists()
    torch.save(published_state(NAMES[0]), "old.pth", _use_new_zipfile_serialization=False)  # as torch 1.5 wrote
    config = {"name": NAMES[0], "num_classes": 3}
    load_initial_weights(build_model(**config), config, "old.pth")


# --- the command


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_ball_cases(tmp_path_factory.mktemp("cases"), train=4, val=2)


def test_a_run_starts_from_published_weights_and_goes_on_from_its_own(data, tmp_path, capsys):
    name = "learnable_vec8x4_dim64_depth1_nb"
    state = published_state(name)
    torch.save({"model": state}, tmp_path / "ae.pth")
    more = ("--model", name, "--init_from", tmp_path / "ae.pth", "--epochs", 2, "--lr", 0)
    assert main(tiny_arguments(data, tmp_path / "out", *more, "--max_steps", 1)) == 0
    assert "starting from published weights" in capsys.readouterr().out
    model = load_checkpoint(tmp_path / "out" / "checkpoint-last.pth")["model"]
    for key, value in state.items():  # learning rate 0: they are as they were
        same = model[key][..., :51] if key == "point_embed.mlp.weight" else model[key][: len(value)]
        assert torch.equal(same, value), key
    (tmp_path / "ae.pth").unlink()  # not needed any more
    assert main(tiny_arguments(data, tmp_path / "out", *more)) == 0
    out = capsys.readouterr().out
    assert "going on from" in out and "starting from" not in out and "--init_from" not in out


def test_a_checkpoint_of_this_software_gives_its_weights_alone(data, tmp_path, capsys):
    options = ("--anchors", "--decoder_layers", 1)
    assert main(tiny_arguments(data, tmp_path / "one", *options, "--epochs", 2, "--max_steps", 3)) == 0
    last = tmp_path / "one" / "checkpoint-last.pth"
    again = (*options, "--init_from", last, "--epochs", 3, "--max_steps", 1, "--lr", 0)
    assert main(tiny_arguments(data, tmp_path / "two", *again)) == 0
    one, two = load_checkpoint(last), load_checkpoint(tmp_path / "two" / "checkpoint-last.pth")
    assert two["global_step"] == 1 and all(torch.equal(one["model"][k], v) for k, v in two["model"].items())
    capsys.readouterr()
    for more, message in (
        ((), "anchors False, found True"),
        ((*options, "--model", "learnable_vec8x4_dim32_depth2_nb"), "name learnable_vec8x4_dim32"),
        ((*options, "--resume", last), "--init_from and --resume exclude each other"),
    ):
        words = tiny_arguments(data, tmp_path / "three", *more, "--init_from", last)
        assert run_command(main, words) == EXIT_BAD_INPUT
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    other = write_ball_cases(tmp_path / "other", train=2, val=1, num_classes=2)
    words = tiny_arguments(other, tmp_path / "three", *options, "--init_from", last)
    assert run_command(main, words) == EXIT_BAD_INPUT
    assert "classes that the training cases do not have: c3" in capsys.readouterr().err
    assert not (tmp_path / "three").exists()
