"""Stamps without a method version, in the present form: their results count as done.

They hold the words of the command line and `str(recipe)` in place of named options, options by earlier names, and the
hash of every source file in place of a method version.
"""

import ast
import contextlib
import io

from vecset.common.errors import InputError
from vecset.pipeline.options import RENAMED, flags, prepare_options, training_limits, training_options
from vecset.pipeline.recipes import RECIPES, Recipe, training_flags

# The methods that made what these stamps stand for
METHODS = {
    "phantoms": "vecsetx-heart phantoms/4",
    "prepare": 2,
    "splits": 1,
    "quality": 1,
    "train": 1,
    "calibrate": 1,
    "reconstruct": 5,
}
# Options that recipes had when these stamps were written, where the recipes ask for less now: they made more hearts, or
# pictures of more hearts, and those results are enough.
EARLIER = {
    "tiny": {
        "phantoms": {"num": 6, "size": 112},
        "quality": {},
        "calibrate": {"num_surface_points": None, "num_latents": None},
    }
}


def in_present_form(stamp: dict, stage: str, recipe_name: str, training_hearts: int) -> dict:
    """The stamp of `stage` with options, limits and method as `run_stage` compares them. Options that cannot be
    read any more give a stamp that differs from all.

    recipe_name: of the present run; training_hearts: rows of train.csv, 0 where there is none.
    """
    options = stamp.get("options", {})
    with contextlib.redirect_stderr(io.StringIO()):  # where argparse explains an option that it does not know
        try:
            translated = _translated(stamp, stage, options, recipe_name, training_hearts)
        except (InputError, SystemExit, KeyError, TypeError, ValueError, SyntaxError):
            translated = {"options": {"not readable": True}}
    return {**stamp, "method": METHODS.get(stage), **translated}


def _translated(stamp, stage, options, recipe_name, training_hearts):
    if stage == "prepare":
        named = {k: v for k, v in options.items() if k not in ("label_map", "prepare_options")}
        mapping = options["label_map"]
        preset = mapping if isinstance(mapping, str) else None
        read = prepare_options([*flags({**named, "label_mapping": preset}), *options["prepare_options"]])
        if isinstance(mapping, dict) and read["label_mapping"] is None:  # {name of the file: hash}
            (read["label_mapping"],) = mapping.values()
        return {"options": read}
    if stage == "splits" and options["overfit"]:
        return {"options": {"overfit": True}}
    if stage == "train":
        ranks, inputs = max(1, options["gpus"]), stamp["inputs"]
        made_by = training_flags(
            _recipe(options["recipe"]),
            options["words"],
            max(1, training_hearts),
            ranks,
            options["seed"],
            overfit=inputs["train.csv"] == inputs["val.csv"],
        )
        words = [*flags(made_by), *options["words"]]
        return {"options": {**training_options(words), "processes": ranks}, "limits": training_limits(words)}
    earlier = EARLIER.get(recipe_name, {}).get(stage)
    if earlier is not None and stamp.get("state") == "done":
        seed = {"seed": options["seed"]} if "seed" in options else {}
        if options == {**earlier, **seed}:
            options = {**options, **getattr(RECIPES[recipe_name], stage)}
    return {"options": {name: value for name, value in options.items() if value is not None}}


def _recipe(text):
    """The Recipe whose `str` is `text`."""
    call = ast.parse(text, mode="eval").body
    parts = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    parts["train"] = {RENAMED.get(name, name): value for name, value in parts["train"].items()}
    return Recipe(**parts)
