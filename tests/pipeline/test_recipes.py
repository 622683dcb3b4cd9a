"""Recipes: what follows from the number of hearts, and that every flag in them exists."""

import functools
import importlib
import json

import pytest

from vecset.pipeline.job import Pipeline
from vecset.pipeline.main import get_parser
from vecset.pipeline.options import (
    NOT_IN_CASE_FILES,
    NOT_IN_TRAINING_RESULT,
    TRAINING_LIMITS,
    flags,
    prepare_options,
    training_limits,
    training_options,
)
from vecset.pipeline.recipes import RECIPES, training_flags


@pytest.mark.parametrize("name", RECIPES)
def test_a_batch_can_be_filled_and_warm_up_and_validation_fit_into_the_epochs(name):
    recipe = RECIPES[name]
    for hearts in (*range(1, 201), 798, 100_000):
        for ranks in (1, 2, 8):
            options = recipe.training_options(hearts, ranks)
            assert options["batch_size"] * ranks <= max(hearts, ranks)
            assert 1 <= options["eval_every"] <= options["epochs"] <= recipe.max_epochs
            assert 0 <= options["warmup_epochs"] < options["epochs"]
            passes = options["epochs"] * hearts
            assert passes <= recipe.heart_passes + hearts, "about as long, whatever the number of hearts"


@pytest.mark.parametrize("words", [[], ["--epochs", "1"], ["--epochs=2"], ["--epochs", "400"]], ids=" ".join)
@pytest.mark.parametrize("name", RECIPES)
def test_the_training_command_takes_what_a_recipe_says_for_any_number_of_hearts(name, words, monkeypatch):
    from vecset.engines import arguments
    from vecset.engines.argument_checks import check_arguments

    monkeypatch.setattr(arguments, "build_parser", functools.cache(arguments.build_parser))  # one for all hearts
    for hearts in range(1, 201):
        given = flags(training_flags(RECIPES[name], words, hearts, 1, 0))
        args = arguments.parse_arguments(["--data_path", "d", "--output_dir", "o", *given, *words])
        check_arguments(args)
        if words:
            assert args.epochs == int(words[-1].split("=")[-1])


def test_a_warm_up_of_the_user_stays():
    assert training_flags(RECIPES["cpu"], ["--epochs", "400"], 64, 1, 0)["warmup_epochs"] == 4  # the recipe's
    words = ["--epochs", "3", "--warmup_epochs", "2"]
    given = flags(training_flags(RECIPES["cpu"], words, 64, 1, 0))
    assert training_options([*given, *words])["warmup_epochs"] == 2


def test_only_the_joint_network_and_several_hearts_are_observed():
    def observed(*words, **how):
        given = flags(training_flags(RECIPES["cpu"], list(words), 64, 1, 0, **how))
        return training_options([*given, *words])["observe"]

    assert observed() and observed("--network", "joint") and not observed("--network", "parts")
    assert not observed(overfit=True) and observed("--observe", "cut=0.5") == "cut=0.5"


def test_flags_leaves_out_what_is_none_or_false():
    assert flags({"seed": 0, "overwrite": True, "label_mapping": None, "anchors": False}) == [
        "--seed",
        "0",
        "--overwrite",
    ]


@pytest.mark.parametrize("name", RECIPES)
def test_training_takes_every_flag(name):
    arguments = pytest.importorskip("vecset.engines.arguments")
    words = flags(RECIPES[name].training_options(64, 1))
    parsed = arguments.build_parser().parse_args(["--data_path", "d", "--output_dir", "o", *words])
    assert parsed.model == RECIPES[name].train["model"]


@pytest.mark.parametrize(
    ("module", "part"),
    [
        ("commands.make_phantoms", "phantoms"),
        ("commands.prepare_data", "prepare"),
        ("commands.check_data_quality", "quality"),
        ("calibrate", "calibrate"),
        ("commands.reconstruct", "reconstruct"),
    ],
)
def test_the_other_commands_take_theirs(module, part):
    parser = importlib.import_module(f"vecset.{module}").get_parser()
    for recipe in RECIPES.values():
        for flag in getattr(recipe, part):
            assert parser.knows(f"--{flag}")


def test_the_tiny_recipe_says_that_its_figures_mean_nothing(tmp_path):
    from vecset.pipeline.job import Pipeline
    from vecset.pipeline.main import closing_lines, get_parser

    for name in RECIPES:
        args = get_parser().parse_args(["--recipe", name, "--output_dir", str(tmp_path)])
        pipeline = Pipeline(args, [], print)
        words = list(map(str, pipeline.reconstruct_command(False)))
        assert ("These figures mean nothing: the recipe tiny is for tests." in words) == (name == "tiny")
        assert "remark" not in pipeline.reconstruct_stage().options()  # it changes no result
        pipeline.reconstruction.mkdir(exist_ok=True)
        for settings in ({}, {"remark": "said above the table"}):
            content = {"hearts": {"a": {}}, "settings": settings}
            (pipeline.reconstruction / "metrics.json").write_text(json.dumps(content))
            told = any("mean nothing" in line for line in closing_lines(pipeline, shown=True))
            assert told == (name == "tiny" and not settings)


def test_hearts_are_read_alike_for_decision_tuning_and_reconstruction_and_another_model_keeps_its_latents(tmp_path):
    from vecset.pipeline.job import Pipeline
    from vecset.pipeline.main import get_parser

    args = get_parser().parse_args(["--recipe", "cpu", "--output_dir", str(tmp_path)])
    assert Pipeline(args, [], print).encoding() == {"num_surface_points": 8192, "num_latents": 512}
    for words in (["--model", "learnable_vec8x4_dim32_depth1_nb"], ["--model=point_vec64x4_dim32_depth1_nb"]):
        other = Pipeline(args, words, print)
        assert other.encoding() == {"num_surface_points": 8192, "num_latents": None}
        assert "--num_latents" not in map(str, other.reconstruct_command(False))
        assert other.val_ratio == 0.2
    other.cases.mkdir()
    (other.cases / "train.csv").write_text("case_id,file\n" + "a,a.npz\n" * 4)
    for words, kept in ((["--model", "learnable_vec8x4_dim32_depth1_nb"], False), ([], True)):
        command = list(map(str, Pipeline(args, words, print).training_command(False)))
        assert ("--fps_class_gap" in command) == ("--fps_density" in command) == kept and "--anchors" in command
    for recipe in ("cpu_long", "gpu"):  # an own model may have fewer latents than these begin with
        args = get_parser().parse_args(["--recipe", recipe, "--output_dir", str(tmp_path)])
        for words, kept in ((["--model", "point_vec64x4_dim32_depth1_nb"], False), ([], True)):
            command = list(map(str, Pipeline(args, words, print).training_command(False)))
            assert ("--early_latents" in command) == ("--early_share" in command) == kept
    args = get_parser().parse_args(["--recipe", "cpu_long", "--val_ratio", "0.5", "--output_dir", str(tmp_path)])
    assert Pipeline(args, [], print).val_ratio == 0.5


def test_the_long_recipe_is_the_one_that_was_measured():
    """docs/log.md, 2026-11-26: 200 training hearts, 190 epochs."""
    options = RECIPES["cpu_long"].training_options(200, 1)
    assert (options["epochs"], options["warmup_epochs"], options["eval_every"]) == (190, 3, 95)


def test_the_recipe_for_a_gpu_is_the_one_that_was_measured():
    """docs/log.md, 2026-11-26: 200 training hearts, 370 epochs of 13 steps."""
    options = RECIPES["gpu"].training_options(200, 1)
    assert (options["epochs"], options["warmup_epochs"], options["eval_every"]) == (370, 6, 185)


def test_words_with_the_same_meaning_are_the_same_options():
    words = ["--model", "point_vec16x8_dim32_depth1_nb", "--fps_class_gap", "2", "--fps_density", "7:2", "--lr", "1e-3"]
    others = [
        "--lr=0.001",
        "--latent_density",
        "7:2",
        "--class_gap",
        "2.0",
        "--model=point_vec16x8_dim32_depth1_nb",
        "--wandb",
    ]
    assert training_options(words) == training_options([*others, "--device", "cpu", "--num_workers", "0"])
    assert training_options(words) != training_options([*words, "--init_from", "weights.pth"])
    assert training_limits([*words, "--max_steps", "4"]) == {"max_steps": 4, "max_minutes": None}
    words = ["--drop_crumbs", "0.01", "--annotated", "2,1", "--overwrite"]
    assert prepare_options(words) == prepare_options(["--annotated=1,2", "--drop_islands=.01", "--file_workers", "7"])
    assert prepare_options(words) != prepare_options([])


def test_a_label_mapping_counts_by_its_content(tmp_path):
    for name, text in (("a.json", '{"1": 1}'), ("b.json", '{"1": 1}'), ("c.json", '{"1": 2}')):
        (tmp_path / name).write_text(text)
    (tmp_path / "windows.json").write_bytes(b'\xef\xbb\xbf{\r\n"1": 1}')
    (tmp_path / "unix.json").write_bytes(b'{\n"1": 1}')
    same = [prepare_options(["--label_mapping", tmp_path / f"{name}.json"]) for name in ("windows", "unix")]
    assert same[0] == same[1]
    a, b, c = (prepare_options(["--label_mapping", tmp_path / name]) for name in ("a.json", "b.json", "c.json"))
    assert a == b != c


def test_names_that_are_left_out_of_the_comparison_are_options_of_the_commands():
    from vecset.commands.prepare_data import get_parser
    from vecset.engines.arguments import build_parser

    assert {action.dest for action in get_parser()._actions} >= NOT_IN_CASE_FILES
    assert {action.dest for action in build_parser()._actions} >= NOT_IN_TRAINING_RESULT | TRAINING_LIMITS


def test_a_network_that_is_trained_to_infer_has_a_stage_that_shows_it(tmp_path):
    args = get_parser().parse_args(["--recipe", "tiny", "--output_dir", str(tmp_path)])
    names = [stage.name for stage in Pipeline(args, [], print).stages()]
    for words in (["--observe", "classes=0.5"], ["--observe=classes=0.5"]):
        pipeline = Pipeline(args, words, print)
        assert [s.name for s in pipeline.stages()] == [*names[:-1], "complete", "reconstruct"]
        assert pipeline.completion.parent == pipeline.train / "completion"  # where report.html looks for it
    for words in (["--observe", ""], ["--lr", "0.1"]):
        assert [s.name for s in Pipeline(args, words, print).stages()] == names
    args.overfit = True
    assert "complete" not in [s.name for s in Pipeline(args, ["--observe", "classes=0.5"], print).stages()]


def test_the_recipe_with_a_shape_model_makes_one_where_the_network_uses_it(tmp_path):
    args = get_parser().parse_args(["--recipe", "cpu", "--output_dir", str(tmp_path)])

    def names(words):
        pipeline = Pipeline(args, words, print)
        stages = [stage.name for stage in pipeline.stages()]
        told = "--shape_model" in pipeline.all_training_words()
        assert told is ("shapes" in stages)
        return stages

    assert names([]).index("shapes") == names([]).index("train") - 1
    learnable = ["--model", "learnable_vec64x8_dim64_depth1_nb"]
    for words in (["--observe", ""], learnable, ["--network", "parts"]):
        assert "shapes" not in names(words)
    mine = tmp_path / "mine.npz"
    mine.write_bytes(b"shapes")
    pipeline = Pipeline(args, ["--shape_model", str(mine)], print)
    assert "shapes" not in [stage.name for stage in pipeline.stages()]
    before = pipeline.shape_inputs()
    mine.write_bytes(b"other shapes")
    assert set(before) == {"--shape_model"} and pipeline.shape_inputs() != before
    pipeline.cases.mkdir()
    for name in ("train", "val"):
        (pipeline.cases / f"{name}.csv").write_text("case_id,file\na,a.npz\nb,b.npz\n")
    assert "shapes" not in names([]), "two hearts have no shape model"
