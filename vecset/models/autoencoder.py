"""The networks by name: the numbers in a model name, the named extensions, and the network that they make.

joint       all structures in one field (joint_network.py)
per_class   one field per structure, each from its own points, by one shared network (part_network.py)
parts       the same, but every second layer of the latent stack sees the latents of all structures
"""

import re

from vecset.common.errors import InputError
from vecset.models.attention import HEAD_DIM
from vecset.models.joint_network import VecSetAutoencoder
from vecset.models.options import EXTENSIONS, NETWORKS
from vecset.models.part_network import PartAutoencoder

_FLAGS = {"states": "observe"}  # where the flag of main_ae.py has another name
_IMPLIED = ("fit_at_queries",)  # by another flag, in networks of this version
GRAMMAR = "{learnable|point}_vec{M}[x{L}]_dim{D}_depth{K}[_sdf][_nb|_kl], xL exactly where there is _nb or _kl"
_NAME = re.compile(r"(learnable|point)_vec(\d+)(?:x(\d+))?_dim(\d+)_depth(\d+)(?:_sdf)?(?:_(nb|kl))?")


def parse_model_name(name: str) -> dict:
    """The numbers in a model name, e.g. learnable_vec1024x16_dim1024_depth24_nb, as arguments of VecSetAutoencoder."""
    match = _NAME.fullmatch(name)
    found = f"{name!r}"
    if match:
        query_type, M, L, D, depth, bottleneck = match.groups()
        if bool(L) != bool(bottleneck):
            found += " (a latent size xL goes with a bottleneck, and only with one)"
        elif min(int(M), int(D), int(L or 1)) < 1:
            found += " (a size of 0)"
        elif int(D) > HEAD_DIM and int(D) % HEAD_DIM:
            found += f" (dim {D} is not a multiple of the head size {HEAD_DIM})"
        else:
            return dict(
                query_type=query_type,
                num_latents=int(M),
                dim=int(D),
                depth=int(depth),
                code_dim=int(L or D),
                bottleneck=bottleneck or "",
            )
    raise InputError("--model", GRAMMAR, found, "for example learnable_vec128x16_dim128_depth4_nb")


def build_model(name: str, num_classes: int, network: str = "joint", **options) -> VecSetAutoencoder:
    """A model by its name, of the kind `network`; `options` are its further arguments, the named extensions."""
    if network not in NETWORKS:
        raise InputError("--network", " or ".join(NETWORKS), network)
    if network == "joint":
        return VecSetAutoencoder(num_classes=num_classes, **parse_model_name(name), **options)
    return PartAutoencoder(parts=network == "parts", num_classes=num_classes, **parse_model_name(name), **options)


def option_words(config: dict) -> str:
    """The extensions of a model config, as flags of main_ae.py."""

    def told(value):
        if isinstance(value, dict):
            value = f"({', '.join(f'{size} {name}' for name, size in value.items())})"
        return "" if value is True else f" {value:g}" if isinstance(value, float) else f" {value}"

    changed = [name for name, off in EXTENSIONS.items() if config.get(name, off) != off and name not in _IMPLIED]
    return " ".join(f"--{_FLAGS.get(name, name)}{told(config[name])}" for name in changed)
