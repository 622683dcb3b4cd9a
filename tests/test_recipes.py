"""Recipes: what follows from the number of hearts, and that every flag in them exists."""

import subprocess
import sys

import pytest

from vecset.pipeline.recipes import RECIPES, flags


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("hearts", [1, 5, 64, 798])
def test_a_batch_can_be_filled_and_warm_up_and_validation_fit_into_the_epochs(name, hearts):
    recipe = RECIPES[name]
    for ranks in (1, 2):
        options = recipe.training_options(hearts, ranks)
        assert options["batch_size"] * ranks <= max(hearts, ranks)
        assert 1 <= options["eval_every"] <= options["epochs"] <= recipe.max_epochs
        assert options["warmup_epochs"] <= options["epochs"]
        passes = options["epochs"] * hearts
        assert passes <= recipe.heart_passes + hearts, "about as long, whatever the number of hearts"


def test_flags_leaves_out_what_is_none_or_false():
    assert flags({"seed": 0, "overwrite": True, "label_map": None, "anchors": False}) == ["--seed", "0", "--overwrite"]


@pytest.mark.parametrize("name", RECIPES)
def test_training_takes_every_flag(name):
    arguments = pytest.importorskip("vecset.utils.arguments")
    words = flags(RECIPES[name].training_options(64, 1))
    parsed = arguments.build_parser().parse_args(["--data_path", "d", "--output_dir", "o", *words])
    assert parsed.model == RECIPES[name].train["model"]


@pytest.mark.parametrize(("command", "part"), [("make_phantoms", "phantoms"), ("prepare_data", "prepare"),
                                               ("reconstruct", "reconstruct")])
def test_the_other_commands_take_theirs(command, part, repository):
    text = subprocess.run([sys.executable, str(repository / f"{command}.py"), "--help"], capture_output=True, text=True,
                          check=True).stdout
    for recipe in RECIPES.values():
        for flag in getattr(recipe, part):
            assert f"--{flag}" in text
