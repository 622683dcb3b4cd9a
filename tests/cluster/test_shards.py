"""Shards of an array job: every label map in exactly one, and what is missing is found again."""

import pytest

from vecset.cluster.shards import get_parser, main, ranges, shard, summary_lines
from vecset.data.prepare_folder import make_all


@pytest.mark.parametrize(("count", "tasks"), [(998, 50), (7, 50), (50, 50), (1, 1), (51, 50)])
def test_every_file_is_in_exactly_one_shard(count, tasks):
    shards = [shard(count, tasks, task) for task in range(tasks)]
    assert [i for start, end in shards for i in range(start, end)] == list(range(count))
    sizes = [end - start for start, end in shards]
    assert max(sizes) - min(sizes) <= 1


def test_ranges_read_like_sbatch_arrays():
    assert ranges([3, 0, 1, 2, 7, 9, 10]) == "0-3,7,9-10"
    assert ranges([5]) == "5"


def test_summary_names_what_is_missing_and_the_command_for_just_that(tmp_path):
    names = [f"{i}.nii.gz" for i in range(6)]
    for i in (0, 1, 3, 5):
        (tmp_path / f"{i}.npz").touch()
    (tmp_path / "task-1.log").write_text(
        "files:  50%  error: /x/2.nii.gz: expected a whole NIfTI image, found half\nnot made: 2.nii.gz\n"
    )
    (tmp_path / "options").write_text("--classes 7 \n")
    lines, missing = summary_lines(names, tmp_path, 3, tmp_path, "/repo/run_data_sbatch.sh", "/in put")
    text = "\n".join(lines)
    assert missing == 2 and lines[0] == "4 of 6 case files are there"
    assert "2.nii.gz (shard 1): error: /x/2.nii.gz: expected a whole NIfTI image" in text
    assert "4.nii.gz (shard 2): the task did not get to it" in text
    assert "sbatch --array=1-2 /repo/run_data_sbatch.sh --tasks 3 --input_dir '/in put'" in text
    assert text.endswith("--classes 7")


def test_excluded_hearts_are_not_missing(tmp_path):
    (tmp_path / "0.npz").touch()
    (tmp_path / "task-0.log").write_text("prepare: 50%\rexcluded: 1.nrrd: truncated by the field of view: PA\n")
    lines, missing = summary_lines(["0.nii", "1.nrrd"], tmp_path, 1, tmp_path, "s", "i")
    assert missing == 0 and lines == ["1 of 2 case files are there, 1 excluded (--exclude_border_cut)"]


def test_summary_of_a_whole_folder_asks_for_nothing(tmp_path):
    (tmp_path / "a.img.npz").touch()
    lines, missing = summary_lines(["a.img.nii.gz"], tmp_path, 1, tmp_path, "s", "i")
    assert (missing, lines) == (0, ["1 of 1 case files are there"])


def test_the_lines_of_prepare_data_are_understood(tmp_path, capsys):
    """What a task prints about a failed and an excluded file is what the summary finds in its log."""
    paths = [tmp_path / "in" / f"{n}.nii.gz" for n in "ab"]
    results = {
        "a": ("failed", [f"{paths[0]}: broken"]),
        "b": ("excluded", ["b.nii.gz: truncated by the field of view: LV"]),
    }
    make_all(lambda path: results[path.name[0]], paths, workers=0)
    (tmp_path / "task-0.log").write_text(capsys.readouterr().err)
    lines, missing = summary_lines([p.name for p in paths], tmp_path, 1, tmp_path, "s", "i")
    assert missing == 1 and lines[0] == "0 of 2 case files are there, 1 excluded (--exclude_border_cut)"
    assert lines[2] == f"  a.nii.gz (shard 0): error: {paths[0]}: broken"


def test_the_old_name_of_shard(tmp_path, capsys):
    for n in range(5):
        (tmp_path / f"{n}.nii.gz").touch()
    for flag in ("--shard", "--share"):
        assert main(["--input_dir", str(tmp_path), "--output_dir", "o", "--tasks", "2", flag, "1"]) == 0
        assert capsys.readouterr().out == "2 5\n"
    assert "--share" not in get_parser().format_help()
