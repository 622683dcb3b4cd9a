"""What benchmarks/networks.py compares: its sizes, the options of training and what a row's figures depend on."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass

from cpu_time import ENVIRONMENT
from networks_page import NETWORKS

from vecset.pipeline.recipes import Recipe, training_flags

VERSION = 1  # of the comparison: rows of another one do not count


@dataclass(frozen=True)
class Comparison:
    """One size of the comparison.

    train, unseen   numbers of hearts
    networks        that are compared; none: those that --networks names
    seeds           of training; the hearts and their split are the same for all
    budget_s        CPU seconds of the training steps of a row
    recipe          sizes and options; epochs follow from the budget
    rounds          how often the cost of a training step is measured
    settle, steps   training steps before such a measurement, and in it
    decoded         number of unseen hearts on which decoding is measured
    """

    name: str
    train: int
    unseen: int
    networks: tuple
    seeds: tuple
    budget_s: float
    recipe: Recipe
    rounds: int = 3
    settle: int = 4
    steps: int = 12
    decoded: int = 4


# The options of the recipe `cpu` of 2026-11-27, written out: the recipe may change, what was compared does not
_CPU = Recipe(
    phantoms={"size": 128},
    prepare={},
    train={
        "model": "point_vec256x16_dim128_depth4_nb",
        "anchors": True,
        "rotary": True,
        "fps_class_gap": 2,
        "fps_density": "auto",
        "batch_size": 8,
        "point_cloud_size": 2048,
        "surface_loss_points": 512,
        "near_points": 512,
        "inside_points": 256,
        "outside_points": 256,
        "balance": 0.5,
        "augment_rotation": 20,
        "eikonal_points": 64,
        "class_loss": "softmax",
        "class_weight": 5,
        "lr": 5e-3,
        "beta2": 0.95,
        "weight_decay": 0.01,
        "num_workers": 1,
    },
    reconstruct={"num_surface_points": 8192},  # and as many latents as in training
    heart_passes=0,  # by the budget
    max_epochs=0,
    warmup_share=0.03,
)
_TINY = Recipe(
    phantoms={"size": 64},
    prepare={"num_surface_points": 4000, "num_vol_points": 4000, "num_near_points": 4000},
    train={
        **_CPU.train,
        "model": "point_vec20x4_dim32_depth2_nb",
        "batch_size": 1,
        "point_cloud_size": 256,
        "surface_loss_points": 64,
        "near_points": 64,
        "inside_points": 32,
        "outside_points": 32,
        "eikonal_points": 16,
        "num_workers": 0,
    },
    reconstruct={},
    heart_passes=0,
    max_epochs=0,
    warmup_share=0.03,
    calibrate={"hearts": 1},
)
SETS = {
    "small": Comparison("small", 64, 16, tuple(NETWORKS), (0, 1), 720.0, _CPU),
    "large": Comparison("large", 200, 40, (), (0, 1, 2), 3600.0, _CPU),
    "tiny": Comparison("tiny", 3, 2, tuple(NETWORKS), (0,), 2.0, _TINY, rounds=1, settle=1, steps=3, decoded=1),
}


def training_options(comparison: Comparison, network: str, seed: int, epochs: int) -> dict:
    """{flag: value} of main_ae.py: the recipe's, for so many epochs, with one validation, at the end."""
    recipe = dataclasses.replace(
        comparison.recipe, heart_passes=comparison.train * epochs, max_epochs=epochs, validations=1
    )
    return {
        **training_flags(recipe, [], comparison.train, 1, seed),
        "grid_size": 24,  # of the validation, which decides nothing here
        "device": "cpu",
        **NETWORKS[network].flags,
    }


def settings_of(comparison: Comparison, network: str) -> str:
    """What a row's figures depend on, as 16 hex digits: rows with others do not count."""
    recipe = comparison.recipe
    content = {
        "version": VERSION,
        "hearts": [comparison.train, comparison.unseen, recipe.phantoms, recipe.prepare],
        "budget_s": comparison.budget_s,
        "environment": ENVIRONMENT,
        "training": {k: v for k, v in training_options(comparison, network, 0, 1000).items() if k != "num_workers"},
        "reconstruct": [recipe.reconstruct, recipe.calibrate],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def settings_of_sets() -> dict:
    return {(name, network): settings_of(chosen, network) for name, chosen in SETS.items() for network in NETWORKS}
