"""Stamps of version 0.1.0 (tests/pipeline/stamps, cut short) stand for the options of the present command lines."""

import hashlib
import json
from pathlib import Path

import pytest

from vecset.pipeline.earlier_stamps import METHODS, in_present_form
from vecset.pipeline.job import METHODS as PRESENT_METHODS
from vecset.pipeline.job import Pipeline
from vecset.pipeline.main import get_parser
from vecset.pipeline.stages import changed_parts

STAMPS = Path(__file__).parent / "stamps"
MAPPING = '{"1": 1}'
# Command lines of then by the names of now; training hearts that the folder had
JOBS = {
    "tiny": ("--recipe tiny", "", 5),
    "mapped": (
        "--recipe tiny --label_mapping {mapping} --seed 3 --input_dir {labels} --prepare_options={prepare}",
        "--max_steps 4 --fps_density 7:2 --anchors --fps_class_gap 2.0 --model point_vec16x8_dim32_depth1_nb",
        5,
    ),
    "overfit": ("--recipe tiny --overfit --keep_going --input_dir {labels} --prepare_options={prepare}", "", 6),
}
PREPARE = {"mapped": "--file_workers 3 --drop_islands 0.01", "overfit": "--annotated 10,1,2,3,4,5,6,7,8,9"}


@pytest.fixture
def job(tmp_path):
    """job(name, more training words) -> the Pipeline of that command line, with as many training hearts as then."""
    (tmp_path / "labels").mkdir()
    (tmp_path / "map.json").write_text(MAPPING)

    def build(name, more=""):
        words, training_words, hearts = JOBS[name]
        values = {"mapping": tmp_path / "map.json", "labels": tmp_path / "labels", "prepare": "WORDS"}
        words = words.format(**values).split()
        words = [word.replace("WORDS", PREPARE.get(name, "")) for word in words]
        args = get_parser().parse_args([*words, "--output_dir", str(tmp_path / "out")])
        pipeline = Pipeline(args, [*training_words.split(), *more.split()], print)
        pipeline.cases.mkdir(parents=True, exist_ok=True)
        for csv in ("train.csv", "val.csv"):
            (pipeline.cases / csv).write_text("case_id,file\n" + "a,a.npz\n" * hearts)
        return pipeline

    return build


def stamp_of(name, stage):
    stamp = json.loads((STAMPS / name / f"{stage}.json").read_text())
    if name == "mapped" and stage == "prepare":  # the mapping of then is not here; it counts by its content
        stamp["options"]["label_map"] = {"then.json": hashlib.sha256(MAPPING.encode()).hexdigest()}
    return stamp


def differences(stage, stamp):
    """What `run_stage` would find changed, the inputs aside; and the limits."""
    translated = stage.translate(stamp)
    wanted = {"options": stage.options(), "inputs": translated["inputs"], "method": translated["method"]}
    wanted = json.loads(json.dumps(wanted))
    return changed_parts(translated, wanted, stage.defaults()), translated.get("limits", {}) == stage.limits()


@pytest.mark.parametrize("name", JOBS)
def test_every_stage_of_version_0_1_0_still_counts_as_done(name, job):
    stages = job(name).stages()
    assert {stage.name for stage in stages} == {path.stem for path in (STAMPS / name).glob("*.json")}
    for stage in stages:
        assert differences(stage, stamp_of(name, stage.name)) == ({}, True), stage.name


def test_the_methods_of_then_are_those_of_now_but_for_what_changed(job):
    """Where a method changes, its earlier results are rightly made again: then it is named here."""
    # more columns in its tables; and neither draws structures that are not in the input; notes of a heart's anatomy
    changed = {"reconstruct", "calibrate", "quality"}
    now = {stage.name: stage.method for stage in job("tiny").stages()}
    assert {name for name in METHODS if now[name] != METHODS[name]} == changed
    assert METHODS.keys() == PRESENT_METHODS.keys() - {"complete", "shapes", "release"}  # there were no such stages


def test_another_option_shows_against_an_earlier_stamp(job):
    def train(pipeline):
        return next(stage for stage in pipeline.stages() if stage.name == "train")

    stamp = stamp_of("mapped", "train")
    assert differences(train(job("mapped", "--lr 0.5")), stamp) == ({"options": ["lr"]}, True)
    assert differences(train(job("mapped", "--class_gap 3")), stamp) == ({"options": ["fps_class_gap"]}, True)
    assert differences(train(job("mapped", "--max_steps 9")), stamp) == ({}, False)
    for free in ("--wandb", "--num_workers 1", "--device cpu", "--shard optimizer", "--print_every 3"):
        assert differences(train(job("mapped", free)), stamp) == ({}, True), free


def test_a_stamp_that_cannot_be_read_differs_and_raises_nothing(capfd):
    stamp = stamp_of("tiny", "train")
    for change in ({"words": ["--no_such_flag"]}, {"recipe": "Recipe("}, {"recipe": "Recipe(other=1)"}):
        broken = {**stamp, "options": {**stamp["options"], **change}}
        assert in_present_form(broken, "train", "tiny", 5)["options"] == {"not readable": True}
    assert capfd.readouterr().err == ""


def test_more_hearts_than_a_recipe_asks_for_now_are_no_change_where_the_stage_was_done():
    stamp, now = stamp_of("tiny", "phantoms"), {"num": 4, "size": 112, "seed": 0}
    assert in_present_form(stamp, "phantoms", "tiny", 5)["options"] == now
    assert in_present_form(stamp, "phantoms", "cpu", 5)["options"]["num"] == 6
    assert in_present_form({**stamp, "state": "running"}, "phantoms", "tiny", 5)["options"]["num"] == 6
    other = {**stamp, "options": {**stamp["options"], "size": 128}}
    assert in_present_form(other, "phantoms", "tiny", 5)["options"] == other["options"]
