"""Where the main job writes without --output_dir, and that results of other hearts are never taken for one's own."""

import pytest

from vecset.common.errors import InputError
from vecset.pipeline import main
from vecset.pipeline.output_folder import output_of


@pytest.fixture
def job(tmp_path, monkeypatch):
    """job(*words) runs the command up to its first stage, and returns the folder of the results; outputs go below
    `tmp_path / "output"`."""
    ran = []

    def stages(pipeline, redo):
        (pipeline.out / "stages").mkdir(exist_ok=True)
        for name in ["prepare"] + ([] if pipeline.args.input_dir else ["phantoms"]):
            (pipeline.out / "stages" / f"{name}.json").write_text("{}")
        ran.append(pipeline.out)
        return 0

    def start(*words):
        assert main.main(["--recipe", "tiny", *map(str, words)]) == 0
        return ran.pop().relative_to(tmp_path)

    monkeypatch.setattr(main, "DEFAULT_OUTPUT", tmp_path / "output" / "demo")
    monkeypatch.setattr(main, "run", stages)
    return start


@pytest.fixture
def labels(tmp_path):
    """labels(place) makes a folder with something that is called like two label maps."""

    def make(place):
        folder = tmp_path / place
        folder.mkdir(parents=True, exist_ok=True)
        for n in (1, 2):
            (folder / f"{n}.nii.gz").write_bytes(b"")
        return folder

    return make


def test_results_of_label_maps_go_to_a_folder_of_their_name_which_is_said(job, labels, capsys):
    assert job() == job() == job("--seed", "1").parent / "demo"
    assert "--output_dir" not in capsys.readouterr().out
    assert str(job("--input_dir", labels("a/hearts of mine"))) == "output/hearts of mine"
    lines = [line for line in capsys.readouterr().out.splitlines() if "--output_dir" in line]
    assert len(lines) == 1 and lines[0].endswith("output/hearts of mine")
    assert str(job("--input_dir", labels("a/hearts of mine"))) == "output/hearts of mine"
    assert str(job("--input_dir", labels("a/hearts of mine"), "--output_dir", labels("x").parent / "y")) == "y"


def test_two_folders_of_one_name_are_not_mixed(job, labels, tmp_path):
    job("--input_dir", labels("a/labels"))
    with pytest.raises(InputError, match=r"output/labels: it holds the results of \S+/a/labels, another folder of th"):
        job("--input_dir", labels("b/labels"))
    out = ["--output_dir", tmp_path / "output" / "labels"]  # they were moved, says the user
    assert job("--input_dir", labels("b/labels"), *out) == job("--input_dir", labels("b/labels"))


def test_synthetic_hearts_and_ones_own_are_not_mixed(job, labels, tmp_path):
    out = tmp_path / job()
    for words in (["--output_dir", out], []):
        with pytest.raises(InputError, match="output/demo: it holds the results of synthetic hearts; give another"):
            job("--input_dir", labels("demo"), *words)
    assert tmp_path / job("--input_dir", labels("output/demo/labels"), "--output_dir", out) == out, "these are they"
    mine = tmp_path / job("--input_dir", labels("mine"))
    with pytest.raises(InputError, match="output/mine: it holds the results of label maps of your own, and this comma"):
        job("--output_dir", mine)


def test_label_maps_of_an_earlier_version_in_the_folder_of_the_demo_are_named(job, labels, tmp_path, capsys):
    job("--input_dir", labels("mine"), "--output_dir", tmp_path / "output" / "demo")
    with pytest.raises(InputError, match="label maps of your own"):
        job()
    capsys.readouterr()
    assert str(job("--input_dir", labels("mine"))) == "output/mine"
    assert f"label maps of an earlier run went to {tmp_path / 'output' / 'demo'}" in capsys.readouterr().out


def test_the_folder_of_the_label_maps_itself_is_another_one(labels, tmp_path):
    assert output_of(labels("output/a"), tmp_path / "output") == tmp_path / "output" / "a_results"
    assert output_of(tmp_path.__class__("/"), tmp_path) == tmp_path / "hearts"
