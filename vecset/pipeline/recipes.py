"""The sizes of the main job, in one place: synthetic hearts, case files, training.

Everything in `train` is a flag of vecset/main_ae.py. Epochs are not fixed: `heart_passes` is the number of training
hearts times epochs (64 hearts x 115 epochs, say), so that the job takes about as long on one heart as on hundreds. A
batch is never larger than the training set. The user's words behind `--` come last on the command line and win.
"""

import math
from dataclasses import dataclass, field

from vecset.common.cores import usable_cores
from vecset.pipeline.options import own_epochs, own_model, training_options


@dataclass(frozen=True)
class Recipe:
    """One size. phantoms, prepare, train, reconstruct, quality, calibrate, shapes: {flag of the stage's command:
    value}; a value of None leaves the flag out, True gives it without a value; shapes None: no shape model.
    heart_passes: training hearts x epochs; at most max_epochs epochs. warmup_share: part of the epochs in which the
    learning rate rises; validations: how many during training; val_ratio: share of the hearts that is held out for
    validation, where the user does not say; file_workers: largest number of processes that is worth starting, None:
    one per core; about: for --help; remark: what stands above the figures, "": nothing."""

    phantoms: dict
    prepare: dict
    train: dict
    reconstruct: dict
    heart_passes: int
    max_epochs: int
    warmup_share: float = 0.05
    validations: int = 10
    val_ratio: float = 0.2
    file_workers: int | None = None
    quality: dict = field(default_factory=dict)
    calibrate: dict = field(default_factory=dict)
    shapes: dict | None = None
    classes: str | None = None
    release: bool = False
    about: str = ""
    remark: str = ""

    def training_options(self, training_hearts: int, ranks: int) -> dict:
        """`train` and what follows from the number of hearts: epochs, warm-up, validations, a batch that is full."""
        epochs = max(1, min(self.max_epochs, round(self.heart_passes / training_hearts)))
        batch = min(self.train["batch_size"], max(1, training_hearts // ranks))
        return {
            **self.train,
            "batch_size": batch,
            "epochs": epochs,
            "warmup_epochs": self.warmup_epochs(epochs),
            "eval_every": math.ceil(epochs / self.validations),
        }

    def warmup_epochs(self, epochs: int) -> int:
        """Whole epochs of warm-up, fewer than `epochs`: the learning rate must reach its height before the end."""
        return min(math.ceil(epochs * self.warmup_share), epochs - 1)


def training_flags(
    recipe: Recipe, words: list, training_hearts: int, ranks: int, seed: int, overfit: bool = False
) -> dict:
    """{flag: value} that go before the user's `words` on the command line of training."""
    options = {**recipe.training_options(training_hearts, ranks), "seed": seed}
    epochs, model = own_epochs(words), own_model(words) or ""
    if epochs and options["warmup_epochs"] >= epochs:  # the user's --epochs are fewer than the recipe's
        options["warmup_epochs"] = recipe.warmup_epochs(epochs)
    options["num_workers"] = min(options["num_workers"], max(1, usable_cores() // ranks))
    if overfit:  # augmentation is for unseen hearts
        options |= dict.fromkeys(("augment_rotation", "observe"))
    if training_options(words)["network"] != "joint":  # which alone is told what is seen
        options["observe"] = None
    if model:  # which may have fewer latents than the recipe begins with
        options |= dict.fromkeys(("early_latents", "early_share"))
    if model.startswith("learnable"):  # these are for point queries alone
        options |= dict.fromkeys(("fps_class_gap", "fps_density"))
    return options


# Training options of the recipes for two cores
_TWO_CORES = {
    "anchors": True,
    "rotary": True,
    "fps_class_gap": 2,
    "fps_density": "auto",
    "batch_size": 8,
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
    "grid_size": 48,
}

# of those that train for hours
_LONG = {
    "model": "point_vec512x32_dim128_depth4_nb",
    "point_cloud_size": 4096,
    **_TWO_CORES,
    "decoder_layers": 1,
    "early_latents": 256,
    "early_share": 0.85,
}

RECIPES = {
    # Two cores, no GPU: all stages in 20 minutes. So few passes that the learning rate reaches its end on slow machines
    # too, within the limit of 11 minutes: the same steps give the same model everywhere.
    "cpu": Recipe(
        about="ten minutes of training on two cores",
        phantoms={"num": 80, "size": 128},
        prepare={},
        train={
            "model": "point_vec256x16_dim128_depth4_nb",
            "point_cloud_size": 2048,
            **_TWO_CORES,
            "observe": "classes=0.25,few=0.05",  # more costs what is given more (docs/log.md, 2026-11-27)
            "optimizer": "muon",
            "max_minutes": 11,
        },
        shapes={"modes": 24},
        # more than in training: coronaries gain .04 by points and as much by latents, all classes some
        reconstruct={"num_surface_points": 8192, "num_latents": 512},
        heart_passes=64 * 115,
        max_epochs=4000,
        warmup_share=0.03,
        validations=3,
    ),
    # Two hours of training on two cores, 240 hearts: what the same ideas give with time (docs/log.md, 2026-11-26).
    "cpu_long": Recipe(
        about="two hours on two cores",
        phantoms={"num": 240, "size": 128},
        prepare={},
        train=_LONG,
        reconstruct={"num_surface_points": 16384, "num_latents": 1024},
        heart_passes=200 * 190,
        max_epochs=8000,
        warmup_share=0.0157,
        validations=2,
        val_ratio=1 / 6,
    ),
    # The weights that come with the software: sixteen structures, what is not seen is inferred, hearts as various as
    # real ones. The shape model's grid is coarser than else, so that all fits into eight MB.
    "release": Recipe(
        about="the weights that come with the software, 100 minutes of training on two cores",
        phantoms={"num": 330, "size": 128, "structures": 16, "variation": 1},
        classes="heart16",
        prepare={},
        train={
            **_LONG,
            "observe": "classes=0.2,few=0.05,cut=0.05",
            "optimizer": "muon",
        },
        shapes={"modes": 16, "step": 0.065, "hearts": 160},
        calibrate={"hearts": 16, "refine_steps": 60},
        reconstruct={"num_surface_points": 8192, "num_latents": 512},
        heart_passes=8 * 4000,
        max_epochs=8000,
        warmup_share=0.02,
        validations=2,
        val_ratio=1 / 11,
        release=True,
    ),
    # One GPU: eight minutes of training on an H200, 240 hearts. More GPUs take larger batches in fewer steps.
    "gpu": Recipe(
        about="eight minutes on one H200",
        phantoms={"num": 240, "size": 128},
        prepare={},
        train={
            "model": "point_vec1024x32_dim512_depth8_nb",
            "anchors": True,
            "rotary": True,
            "fps_class_gap": 2,
            "fps_density": "auto",
            "decoder_layers": 1,
            "early_latents": 512,
            "early_share": 0.75,
            "batch_size": 16,
            "point_cloud_size": 8192,
            "surface_loss_points": 1024,
            "near_points": 1024,
            "inside_points": 512,
            "outside_points": 512,
            "balance": 0.5,
            "augment_rotation": 20,
            "eikonal_points": 128,
            "class_loss": "softmax",
            "class_weight": 5,
            "lr": 1.2e-3,  # by the width: 5e-3, good at width 128, diverges at 512
            "beta2": 0.95,
            "weight_decay": 0.01,
            "num_workers": 8,
            "grid_size": 48,
        },
        reconstruct={"num_surface_points": 16384},
        heart_passes=200 * 370,
        max_epochs=10000,
        warmup_share=0.0162,
        validations=2,
        val_ratio=1 / 6,
    ),
    # The smallest that goes through every stage, for the tests; its figures mean nothing.
    "tiny": Recipe(
        about="for tests, its figures mean nothing",
        remark="These figures mean nothing: the recipe tiny is for tests.",
        phantoms={"num": 4, "size": 112},  # coarser, and coronaries are thinner than a voxel
        prepare={"num_surface_points": 4000, "num_vol_points": 4000, "num_near_points": 4000},
        train={
            "model": "learnable_vec16x8_dim32_depth1_nb",
            "batch_size": 2,
            "point_cloud_size": 256,
            "near_points": 128,
            "inside_points": 128,
            "outside_points": 128,
            "eikonal_points": 32,
            "lr": 1e-3,
            "num_workers": 0,
            "grid_size": 16,
        },
        reconstruct={"mesh_cells": 24},
        quality={"pictures": 1},
        calibrate={"hearts": 1},
        heart_passes=4 * 3,
        max_epochs=3,
        validations=1,
        file_workers=1,  # each process compiles anew what is compiled when it is first used
    ),
}
