"""Earlier results make place: what the main job made goes or is put aside, what it did not make stays and is named."""

import pytest

from vecset.common.errors import InputError
from vecset.pipeline.earlier_results import move_aside, remove_made, remove_outdated_cases


def files_of(folder):
    return sorted(path.name for path in folder.iterdir())


def touch(folder, *names):
    for name in names:
        (folder / name).write_text("")
    return [folder / name for name in names]


def test_what_a_stage_made_is_removed_and_nothing_else(tmp_path):
    (tmp_path / "labels").mkdir()
    made = touch(tmp_path / "labels", "a.nii.gz", "b.nii.gz")
    stamp = {"state": "done", "outputs": {"labels/a.nii.gz": [1, 2], "labels/b.nii.gz": [1, 2]}}
    mine = touch(tmp_path / "labels", "mine.nii.gz")
    with pytest.raises(InputError, match="labels: this command did not make mine.nii.gz, and would remove it"):
        remove_made([*made, *mine], stamp, tmp_path / "labels", tmp_path)
    assert files_of(tmp_path / "labels") == ["a.nii.gz", "b.nii.gz", "mine.nii.gz"]
    remove_made(made, stamp, tmp_path / "labels", tmp_path)
    assert files_of(tmp_path / "labels") == ["mine.nii.gz"]
    remove_made(mine, {"state": "running"}, tmp_path / "labels", tmp_path)  # it was stopped: no list yet
    assert files_of(tmp_path / "labels") == []


@pytest.mark.parametrize(("whole", "left"), [(False, ["same.npz"]), (True, [])])
def test_case_files_go_whose_label_map_changed_or_is_gone(tmp_path, whole, left):
    files = touch(tmp_path, "changed.npz", "gone.npz", "same.npz")
    old = {"inputs": {"same.nii.gz": [5, 1], "changed.nii.gz": [5, 1], "gone.nii.gz": [5, 1]}}
    wanted = {"inputs": {"same.nii.gz": [5, 1], "changed.nii.gz": [5, 2], "new.nii.gz": [5, 1]}}
    mine = touch(tmp_path, "mine.npz")
    with pytest.raises(InputError, match="this command did not make mine.npz, and would train on it"):
        remove_outdated_cases([*files, *mine], old, wanted, whole, tmp_path)
    assert len(files_of(tmp_path)) == 4
    mine[0].unlink()
    remove_outdated_cases(files, old, wanted, whole, tmp_path)
    assert files_of(tmp_path) == left


def test_move_aside_counts_up_and_never_overwrites(tmp_path):
    for word in ("first", "second"):
        (tmp_path / "train").mkdir()
        (tmp_path / "train" / "log.txt").write_text(word)
        move_aside(tmp_path / "train")
    assert [(tmp_path / f"train.old-{n}" / "log.txt").read_text() for n in (1, 2)] == ["first", "second"]
    assert move_aside(tmp_path / "train") is None
