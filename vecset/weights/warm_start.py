"""`--init_from`: a new run that starts from trained weights.

Two kinds of files are taken. A checkpoint of this software gives its weights, and nothing else of it; a network that
is told the states of classes (--observe) may start from one that was not, one with several answers (--answer_noise)
from one with one, one with a shape model from one with another or none, and one for more classes from one for some of
them, by their names (more_classes.py). A checkpoint of the public VecSetX release
(Zhang et al., https://github.com/1zb/VecSetX), {"model": state} or the state itself, has one embedding for 3
coordinates and one number per query. It is widened: the embedding serves both the surface points, whose class columns
start at zero, and the queries; the distance keeps its output row, and the rows of the classes (logits or distances)
start at zero. So the warm start computes the distance that the published network computes, to the last bits. It is a
network of one field: networks with a field per class take no published weights.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from vecset.common.errors import InputError
from vecset.models.autoencoder import parse_model_name
from vecset.weights.checkpoint import FORMAT, as_named, load_safely
from vecset.weights.more_classes import with_classes

_TO_DO = "give a checkpoint of the public VecSetX release or one that main_ae.py wrote"
_BOTTLENECK_KEYS = {"bottleneck.gamma": "nb", "bottleneck.mean_proj.weight": "kl"}


def load_initial_weights(model, model_config: dict, path, class_names: Sequence[str] | None = None) -> str:
    """Loads the weights of `path` into `model` = build_model(**model_config), which has the classes `class_names`. -> a
    message that says what was done: classes are taken by name, or, where as many have other names, by number.
    Raises InputError in one line where the file is of another kind, another size, or incomplete."""
    loaded, places = load_safely(path, _TO_DO), list(range(model.num_classes))
    if isinstance(loaded, dict) and loaded.get("format") == FORMAT:
        state, said = loaded["model"], f"weights of {path}, after {loaded['epoch']} epochs"
        theirs, ours = (list(names or ()) for names in (loaded.get("class_names"), class_names))
        by_name = bool(theirs) and theirs != ours and set(theirs) <= set(ours)
        if ours and len(theirs) > 0 and len(theirs) != len(ours) and not by_name:
            lost = [name for name in theirs if name not in ours]
            raise InputError.because(
                path,
                f"its network has classes that the training cases do not have: {', '.join(lost[:4])}",
                f"give weights for {model_config['num_classes']} classes, or cases with all classes of these weights",
            )
        _check_own(as_named(loaded)["model_config"], model_config, path, by_name)
        if by_name:
            state, places = with_classes(state, theirs, ours, model), [ours.index(name) for name in theirs]
            new = [name for name in ours if name not in theirs]
            said += f"; its {len(theirs)} classes are taken by name" + (f", new: {', '.join(new)}" if new else "")
        elif ours and theirs and theirs != ours:
            said += f"; its classes have other names ({', '.join(map(str, theirs))}), each is taken by its number"
    else:
        state, said = loaded, f"published weights of {path}, widened to {model_config['num_classes']} classes"
        if isinstance(loaded, dict) and isinstance(loaded.get("model"), dict):
            state = loaded["model"]
        _check_published(state, model_config, path)
        state = widen(state, model)
    if model_config.get("states") and "state_embed" not in state:
        new = {"state_embed": torch.zeros_like(model.state_embed), "far_slope": torch.ones_like(model.far_slope)}
        state, said = {**state, **new}, f"{said}, which were not told the states of classes"
    if model_config.get("shape_model"):  # this run's own; weights without one are not told of proposals
        if "shape_model.table_VK" in state and not _holds(model.shape_model, state, places):
            said += (
                "; its shape model is another, so what is inferred changes (see: python -m vecset.shape_model --widen)"
            )
        shapes = {f"shape_model.{name}": value for name, value in model.shape_model.state_dict().items()}
        state = {"proposal_embed": torch.zeros_like(model.proposal_embed)} | dict(state) | shapes
    if model_config.get("fit_at_queries"):  # of zeros behind them, the distances of a fit change nothing
        prefix = "proposed_distances."
        state = {prefix + name: value for name, value in model.proposed_distances.state_dict().items()} | dict(state)
    if model_config.get("answer_noise"):  # numbers of zeros change nothing, whatever the weights
        state = {f"answer_noise.{name}": value for name, value in model.answer_noise.state_dict().items()} | dict(state)
    ours = model.state_dict()
    _refuse_list(path, "missing", sorted(set(ours) - set(state)), model_config)
    _refuse_list(path, "not known here", sorted(set(state) - set(ours)), model_config)
    for name, value in state.items():
        if value.shape != ours[name].shape:
            raise InputError(path, f"{name} of shape {tuple(ours[name].shape)}", tuple(value.shape), _TO_DO)
    if not torch.allclose(state["point_embed.basis"].float(), model.point_embed.basis, rtol=1e-5, atol=0):
        raise InputError(path, "a Fourier basis 2^k pi, k = 0..7 per axis", "another point_embed.basis", _TO_DO)
    known = model.known_classes.clone()  # a matter of the training cases, not of the weights
    model.load_state_dict(state)
    model.known_classes.copy_(known)
    return f"starting from {said}"


def widen(state: dict, model: torch.nn.Module) -> dict:
    """The state of a network of 3 numbers in and 1 out as one of `model`'s, the new columns and rows zero."""
    classes = model.num_classes
    state = dict(state)
    weight, bias = state["point_embed.mlp.weight"], state["point_embed.mlp.bias"]
    state |= {
        "query_embed.mlp.weight": weight,
        "query_embed.mlp.bias": bias,
        "query_embed.basis": state["point_embed.basis"],
        "known_classes": model.known_classes,
        "point_embed.mlp.weight": torch.cat([weight, weight.new_zeros(len(weight), classes)], 1),
    }
    for name in ("to_outputs.1.weight", "to_outputs.1.bias"):
        value, rows = state[name], len(model.to_outputs[1].bias)
        state[name] = torch.cat([value, value.new_zeros(rows - len(value), *value.shape[1:])])
    return state


def _holds(ours, state, places) -> bool:
    """Whether the shape model `ours` says the same as that of `state` of the structures of this one, which are those of
    `places` (from 0) in ours."""

    def theirs(name):
        return state[f"shape_model.{name}"]

    table, modes = theirs("table_VK"), theirs("table_VK").shape[1]
    if modes > ours.table_VK.shape[1] or len(places) != len(theirs("known_C")):
        return False
    for c, place in enumerate(places):
        if not theirs("known_C")[c]:  # it said nothing of it
            continue
        of_class = [theirs("cells_C3"), ours.cells_C3], [theirs("low_C3"), ours.low_C3]
        if not all(torch.equal(old[c], new[place]) for old, new in of_class):
            return False
        cells = int(ours.cells_C3[place].prod())
        old, new = table[theirs("first_C")[c] :][:cells], ours.table_VK[ours.first_C[place] :][:cells]
        if not torch.equal(old, new[:, :modes]) or new[:, modes:].any():
            return False
    return True


def sources_of(path: Path | str) -> list[str]:
    """What the weights of a checkpoint have been trained on: SHA-256 of the label maps, those of weights that it was
    started from included. [] where it does not say: an earlier version, or published weights."""
    loaded = load_safely(path, _TO_DO)
    return list(loaded.get("sources") or ()) if isinstance(loaded, dict) else []


def new_classes(path: Path | str, class_names: Sequence[str]) -> list[int]:
    """Numbers (from 0) of the classes that `load_initial_weights` finds no weights for in `path`."""
    loaded = load_safely(path, _TO_DO)
    if not (isinstance(loaded, dict) and loaded.get("format") == FORMAT):
        return list(range(len(class_names)))  # published weights have no classes
    theirs = list(loaded.get("class_names") or class_names)
    return [c for c, name in enumerate(class_names) if name not in theirs] if len(theirs) < len(class_names) else []


def _check_own(theirs, ours, path, by_name=False):
    for name in sorted(set(theirs) | set(ours)):
        if by_name and name in ("num_classes", "fps_density"):
            continue  # neither is a weight; densities are of class numbers
        if name == "states" and ours.get(name):
            continue  # vectors of zeros are the same function
        if name == "shape_model" and ours.get(name):
            continue  # this run's own is used, and with zeros for its mark proposals are points as others are
        if name == "fit_at_queries" and ours.get(name):
            continue  # as above
        if name == "answer_noise" and ours.get(name) and not theirs.get(name):
            continue  # and so are numbers of zeros
        if name in ("shape_model", "fit_at_queries"):
            if theirs.get(name) and not ours.get(name):
                raise InputError.because(
                    path,
                    "its network was trained with a shape model",
                    "give --shape_model, too: its own, or a wider one",
                )
            continue
        if theirs.get(name) != ours.get(name) and not (name == "name" and _same_network(theirs, ours)):
            raise InputError(
                path,
                f"weights of a network with {name} {ours.get(name)}",
                theirs.get(name),
                "give the options that it was trained with",
            )


def _same_network(theirs, ours):
    return parse_model_name(theirs["name"]) == parse_model_name(ours["name"])


def _check_published(state, model_config, path):
    """Refuses what is no published state, and one of another size, with the model name that would fit."""
    needed = (
        "point_embed.basis",
        "point_embed.mlp.weight",
        "point_embed.mlp.bias",
        "to_outputs.1.weight",
        "to_outputs.1.bias",
    )
    tensors = isinstance(state, dict) and all(torch.is_tensor(v) for v in state.values())
    if not tensors or not any(name in state for name in needed):
        found = (
            f"a dict of {', '.join(map(str, list(state)[:4])) or 'nothing'}"
            if isinstance(state, dict)
            else type(state).__name__
        )
        raise InputError(path, "weights of a VecSet autoencoder", found, _TO_DO)
    _refuse_list(path, "missing", [name for name in needed if name not in state], model_config)
    inputs, outputs = state["point_embed.mlp.weight"].shape[1], len(state["to_outputs.1.weight"])
    fourier = 2 * state["point_embed.basis"].shape[1]
    if inputs != fourier + 3 or outputs != 1:
        raise InputError(
            path,
            "published weights: 3 numbers per point in, 1 per query out",
            f"{inputs - fourier} in and {outputs} out",
            _TO_DO,
        )
    extra = [f"--{name}" for name in ("anchors", "decoder_layers") if model_config.get(name)]
    if model_config.get("network", "joint") != "joint":
        extra.append(f"--network {model_config['network']}")
    if extra:
        raise InputError(
            path,
            "the published architecture to put published weights into",
            " and ".join(extra),
            f"leave out {' and '.join(extra)}",
        )
    ours = parse_model_name(model_config["name"])
    theirs = _sizes(state, ours)
    if theirs != ours:
        fitting = model_name(theirs)
        raise InputError(
            path,
            f"weights of {model_config['name']}",
            f"{theirs['query_type']} queries, width {theirs['dim']}, depth {theirs['depth']}, codes of "
            f"{theirs['code_dim']}" + (f", {theirs['num_latents']} latents" * ("latents.weight" in state)),
            f"give --model {fitting}",
        )


def _sizes(state, ours):
    """The numbers of a model name, as the shapes of `state` have them. Point queries leave no trace of how many they
    were: `ours` are taken."""
    bottleneck = next((kind for key, kind in _BOTTLENECK_KEYS.items() if key in state), "")
    dim = len(state["point_embed.mlp.weight"])
    post = state.get("bottleneck.post_bottleneck_proj.weight")
    layers = {int(name.split(".")[1]) for name in state if name.startswith("layers.")}
    learnable = "latents.weight" in state
    return dict(
        query_type="learnable" if learnable else "point",
        dim=dim,
        depth=max(layers, default=-1) + 1,
        num_latents=len(state["latents.weight"]) if learnable else ours["num_latents"],
        code_dim=post.shape[1] if bottleneck and post is not None else dim,
        bottleneck=bottleneck,
    )


def model_name(sizes: dict) -> str:
    """The model name with these numbers: the other direction of `parse_model_name`."""
    code = f"x{sizes['code_dim']}" if sizes["bottleneck"] else ""
    name = f"{sizes['query_type']}_vec{sizes['num_latents']}{code}_dim{sizes['dim']}_depth{sizes['depth']}"
    return name + (f"_{sizes['bottleneck']}" if sizes["bottleneck"] else "")


def _refuse_list(path, how, names, model_config):
    if names:
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        raise InputError(
            path, f"all weights of {model_config['name']} and no others", f"{how}: {', '.join(names[:4])}{more}", _TO_DO
        )
