"""What is given, absent, unknown and cut, from the input to every output of reconstruct.py: the formula's ball, whose
octants the model always knows."""

import json

import nibabel as nib
import numpy as np
import pytest
import trimesh
from helpers.formula_hearts import NAMES, make_case, make_heart, metrics, run, sphere_points, write_ply
from helpers.report_run import page_tables

from vecset.common.errors import InputError
from vecset.common.structure_state import State, is_seen
from vecset.data.case_file import read_case, write_case
from vecset.imaging.frame import Frame
from vecset.imaging.label_map import LabelMap, write_label_map
from vecset.inference import settings
from vecset.inference.closing_lines import earlier_notes
from vecset.inference.inputs import find_hearts, load_heart
from vecset.inference.latents import read_latents
from vecset.weights import checkpoint as checkpoint_file


def result(workdir, case_id="a"):
    return json.loads((workdir / "out" / case_id / "result.json").read_text())


def drawn(workdir, case_id="a", name="labels"):
    return np.asanyarray(nib.load(workdir / "out" / case_id / f"{name}.nii.gz").dataobj)


def errors(capsys):
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    return [line.strip() for line in lines if line.strip().startswith("error:")]


def hide(path, classes):
    """The label map at `path` without `classes`; the octants stay where they are."""
    truth, frame = make_heart()
    write_label_map(path, np.where(np.isin(truth, classes), 0, truth).astype(np.uint8), frame.affine)
    return truth


# --- what is drawn


def test_nothing_without_a_voxel_is_drawn_unless_it_is_unknown_and_asked_for(workdir, capsys):
    """Octant 3 is not annotated, octant 5 is absent, octant 9 of the checkpoint is absent, too."""
    truth = hide(workdir / "data" / "a.nii.gz", [3, 5])
    looked_for = ["--annotated", "1,2,4,5,6,7,8,9"]
    assert run(workdir, *looked_for) == 0
    said = capsys.readouterr().out
    assert "not trained to infer" not in said
    assert said.count("--complete infers them") == 1 and "1 of 1 hearts have structures that are unknown" in said
    assert "(class_3 in 1)" in said and "class_5 in" not in said
    assert set(np.unique(drawn(workdir))) == {0, 1, 2, 4, 6, 7, 8}
    names = [path.stem for path in sorted((workdir / "out" / "a" / "meshes").iterdir())]
    assert names == [f"class_{c}" for c in (1, 2, 4, 6, 7, 8)]
    content = result(workdir)
    assert content["states"] == {
        **dict.fromkeys(NAMES, "given"),
        "class_3": "unknown",
        "class_5": "absent",
        "class_9": "absent",
    }
    assert content["inferred"] == [] and not (workdir / "out" / "a" / "inferred.nii.gz").exists()

    assert run(workdir, *looked_for, "--complete") == 0
    said = capsys.readouterr().out
    assert "--complete" not in said and "1 of 1 hearts have inferred structures (class_3 in 1)" in said
    labels = drawn(workdir)
    assert set(np.unique(labels)) == {0, 1, 2, 3, 4, 6, 7, 8}
    np.testing.assert_array_equal(drawn(workdir, name="inferred"), labels == 3)
    assert "inferred.nii.gz" in result(workdir)["files"] and result(workdir)["inferred"] == ["class_3"]
    assert (workdir / "out" / "a" / "meshes" / "class_3_inferred.ply").is_file()
    assert not (workdir / "out" / "a" / "meshes" / "class_3.ply").exists()
    scene = trimesh.load(workdir / "out" / "a" / "heart.glb")
    assert "class_3 (inferred)" in scene.geometry and "class_1" in scene.geometry
    import SimpleITK as sitk

    header = sitk.ReadImage(str(workdir / "out" / "a" / "labels.seg.nrrd"))
    segments = {header.GetMetaData(key) for key in header.GetMetaDataKeys() if key.endswith("_Name")}
    assert segments == {*NAMES, "class_3 (inferred)"} - {"class_3"}
    rows = {row["class_name"]: row for row in metrics(workdir)}
    assert list(rows["class_1"])[-1] == "observed"
    assert {name: row["observed"] for name, row in rows.items()} == {
        **dict.fromkeys(NAMES, "given"),
        **{"class_3": "inferred", "class_5": "", "class_9": "", "union": ""},
    }
    assert rows["class_3"]["status"] == "not annotated" and rows["class_5"]["status"] == "absent"

    assert run(workdir, *looked_for) == 0  # what was inferred is gone again
    assert not (workdir / "out" / "a" / "inferred.nii.gz").exists() and 3 not in drawn(workdir)
    assert (truth == 3).any()


def test_a_hole_is_background_and_not_its_neighbours(workdir):
    """Octant 3 is unknown: the others do not grow into its place."""
    truth, _ = make_heart()
    make_case(workdir / "data" / "a.npz", annotated=[1, 2, 4, 5, 6, 7, 8, 9])
    case = read_case(workdir / "data" / "a.npz")
    keep = case.surface_labels != 3
    case.arrays = {name: array[keep] for name, array in case.arrays.items()}
    case.truth_crop = np.where(case.truth_crop == 3, 0, case.truth_crop).astype(np.uint8)
    write_case(workdir / "data" / "a.npz", case)
    assert run(workdir, "--no_meshes") == 0
    np.testing.assert_array_equal(drawn(workdir), np.where(truth == 3, 0, truth))
    assert run(workdir, "--no_meshes", "--complete") == 0
    np.testing.assert_array_equal(drawn(workdir), truth)


# --- what is given


@pytest.mark.parametrize("kind", ["map", "case"])
def test_given_hides_the_rest_from_encoder_and_frame(tmp_path, kind):
    """Two hearts that differ in what is hidden alone: surface points, frame and states are equal to the bit."""
    truth, frame = make_heart()
    other = np.where(truth > 4, 9 - (truth % 4), truth).astype(np.uint8)
    other[2:5, 3:9, 2:4] = 7  # an island far away
    cases = []
    for labels in (truth, other):
        path = tmp_path / ("x.nii.gz" if kind == "map" else "x.npz")
        write_label_map(tmp_path / "x.nii.gz", labels, frame.affine)
        if kind == "case":
            from vecset.data.preparation import Options, build_case

            source = LabelMap(labels, frame.affine, path, "0", NAMES, list(range(1, 10)), frame.affine)
            write_case(path, build_case(source, Options(800, 20, 20)))
        cases.append(load_heart(find_hearts(path)[0], NAMES, 0, 64, given=["1", "2", "class_3"]))
    first, second = cases
    assert first.states.tolist() == [State.GIVEN] * 3 + [State.UNKNOWN] * 6
    np.testing.assert_array_equal(first.states, second.states)
    for name, array in first.arrays.items():
        np.testing.assert_array_equal(array, second.arrays[name])
    for name in ("affine", "centre_mm", "scale", "shape"):
        np.testing.assert_array_equal(getattr(first.frame, name), getattr(second.frame, name))
    assert set(np.unique(first.surface_labels)) == {1, 2, 3} == set(np.unique(first.truth_crop)) - {0}
    np.testing.assert_array_equal(first.whole.truth_labels(), truth)
    np.testing.assert_array_equal(second.whole.truth_labels(), other)
    assert first.frame.centre_mm[2] == pytest.approx(54.3, abs=0.2)  # that of what is seen: the lower half
    assert first.whole.frame.centre_mm[2] == pytest.approx(59.9, abs=0.2)


def test_given_all_of_a_case_file_is_the_case_file(tmp_path):
    from vecset.data.preparation import Options, build_case

    truth, frame = make_heart()
    source = LabelMap(truth, frame.affine, tmp_path / "h.nii.gz", "0", NAMES, list(range(1, 10)), frame.affine)
    case = build_case(source, Options(700, 20, 20, seed=3, class_floor=0.02))
    write_case(tmp_path / "h.npz", case)
    found = load_heart(find_hearts(tmp_path / "h.npz")[0], NAMES, given=[str(c) for c in range(1, 9)])
    for name in ("surface_points", "surface_labels", "surface_normals"):
        np.testing.assert_array_equal(found.arrays[name], case.arrays[name])
    assert found.frame.scale == case.frame.scale and found.states[8] == State.UNKNOWN


def test_given_from_the_command_line(workdir, capsys):
    """The hidden octants are drawn, and scored against the whole map; latents do not change with what is hidden."""
    truth = hide(workdir / "data" / "a.nii.gz", [])
    stored = []
    for hidden in ([], [7, 8]):
        hide(workdir / "data" / "a.nii.gz", hidden)
        assert run(workdir, "--given", "1,2,3,4,class_5,6", "--latents") == 0
        stored.append(read_latents(workdir / "out" / "a" / "latents.npz"))
        labels = drawn(workdir)
        assert {7, 8} <= set(np.unique(labels)) and 9 not in labels
    np.testing.assert_array_equal(stored[0][0], stored[1][0])
    np.testing.assert_array_equal(stored[0][1].frame.centre_mm, stored[1][1].frame.centre_mm)
    rows = {row["class_name"]: row for row in metrics(workdir)}
    assert rows["class_7"]["status"] == "invented" and rows["class_1"]["status"] == "ok"
    assert [rows[f"class_{c}"]["observed"] for c in range(1, 10)] == ["given"] * 6 + ["inferred"] * 3
    np.testing.assert_array_equal(drawn(workdir, name="inferred") > 0, labels > 6)
    said = capsys.readouterr().out
    assert said.count("note: this model was not trained to infer") == 2  # one for each run
    content = json.loads((workdir / "out" / "metrics.json").read_text())
    table = page_tables(workdir / "out" / "report.html")["means"]
    page = {row[0][-1]: row[1][0] for row in table}
    for kind, classes in (("given", range(1, 7)), ("inferred", (7, 8))):
        mean = np.mean([float(rows[f"class_{c}"]["dice"]) for c in classes])
        assert content["observed"][kind]["mean of classes"]["dice"] == pytest.approx(mean, abs=1e-6)
        line = next(line for line in said.splitlines()[::-1] if line.startswith(f"mean of {kind}"))
        assert line.split()[3] == f"{mean:.3f}" and float(page[f"mean of {kind}"]) == pytest.approx(mean, abs=6e-4)
    assert content["classes"]["class_7"]["inferred"] == 1 and "inferred" not in content["classes"]["class_1"]
    assert table[0][-1] == ["inferred"] and next(row for row in table if row[0][-1] == "class_7")[-1] == ["1"]
    text = (workdir / "out" / "report.html").read_text(encoding="utf-8")
    assert "inferred: class_7, class_8, class_9)" in text
    made_from = result(workdir)["made_from"]
    assert made_from["given"] == ["1", "2", "3", "4", "6", "class_5"] and "complete" not in made_from
    assert (truth > 6).any()
    # the latents alone: what is unknown is drawn where it is asked for
    file = workdir / "out" / "a" / "latents.npz"
    words = ["--checkpoint", workdir / "checkpoint.pth", "--latents", file, "--no_meshes"]
    for how, classes in (([], {*range(7)}), (["--complete"], {*range(9)})):
        assert decoded_latents(workdir, words, how) == classes


def decoded_latents(workdir, words, how):
    import reconstruct
    from vecset.common.errors import run_command

    out = ["--output_dir", workdir / "again", "--device", "cpu"]
    assert run_command(reconstruct.main, [str(word) for word in (*words, *out, *how)]) == 0
    return set(np.unique(np.asanyarray(nib.load(workdir / "again" / "a" / "labels.nii.gz").dataobj)).tolist())


def test_latents_of_an_earlier_version_draw_every_class(workdir, capsys):
    make_case(workdir / "data" / "a.npz")
    assert run(workdir, "--latents", "--no_meshes") == 0
    file = workdir / "out" / "a" / "latents.npz"
    with np.load(file) as archive:
        members = {name: archive[name] for name in archive.files}
    meta = json.loads(str(members["meta"]))
    assert meta.pop("states") == [State.GIVEN] * 8 + [State.ABSENT]
    np.savez(file, **{**members, "meta": np.array(json.dumps(meta))})
    assert not read_latents(file)[1].has_states
    words = ["--checkpoint", workdir / "checkpoint.pth", "--latents", file, "--no_meshes"]
    capsys.readouterr()
    assert decoded_latents(workdir, words, []) == {*range(9)}
    assert "these latents do not say what was seen of the heart: every structure is drawn" in capsys.readouterr().out
    assert json.loads((workdir / "again" / "a" / "result.json").read_text())["states"] == {}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("", "--given: expected ids or names"),
        ("liver", "--given: liver is no class of the checkpoint"),
        ("1,44", "--given: 44: no class of the input, a.npz (1 class_1"),
        ("1,class_9", "--given: class 9 (class_9) is not there, it has no voxel"),
    ],
)
def test_a_wrong_list_is_one_line(workdir, capsys, given, words):
    make_case(workdir / "data" / "a.npz")
    assert run(workdir, "--no_meshes", "--given", given) in (1, 2)
    assert words in errors(capsys)[0] and not (workdir / "out" / "a").exists()


def test_a_case_file_without_a_label_map_and_stored_latents(workdir, capsys):
    path = make_case(workdir / "data" / "a.npz")
    with np.load(path) as archive:
        np.savez(path, **{name: archive[name] for name in archive.files if not name.startswith("label_")})
    assert run(workdir, "--no_meshes", "--given", "1") == 1
    assert "a.npz: this case file holds no label map" in errors(capsys)[0]
    assert run(workdir, "--no_meshes") == 0
    from vecset.commands.reconstruct import parse_arguments

    words = ["--checkpoint", "c.pth", "--output_dir", "out", "--latents", "x.npz", "--given", "1"]
    with pytest.raises(InputError, match="--given: stored latents hold a heart"):
        parse_arguments(words)


def test_given_points_of_a_cloud(workdir, capsys):
    points, labels = sphere_points()
    write_ply(workdir / "cloud.ply", points, labels)
    heart = find_hearts(workdir / "cloud.ply")[0]
    whole, case = load_heart(heart, NAMES), load_heart(heart, NAMES, given=["1", "2"])
    mine = np.isin(labels, [1, 2])
    own = Frame.from_surface(whole.frame.affine, whole.frame.shape, points[mine])
    assert case.frame.shape == whole.frame.shape and case.frame.scale == pytest.approx(own.scale)
    np.testing.assert_allclose(case.frame.unit_to_mm(case.surface_points), points[mine], atol=1e-4)
    assert is_seen(case.states).tolist() == [True] * 2 + [False] * 7
    assert run(workdir, "--given", "1,9", "--no_meshes", source="cloud.ply") == 1
    assert "class 9 (class_9) is not there" in errors(capsys)[0]
    assert run(workdir, "--given", "1,2", "--no_meshes", source="cloud.ply") == 0
    assert result(workdir, "cloud")["inferred"] == NAMES[2:] and drawn(workdir, "cloud").max() == 8


def test_results_of_an_earlier_version_are_made_again(workdir, capsys):
    make_case(workdir / "data" / "a.npz")
    assert run(workdir, "--no_meshes") == 0
    stored = result(workdir)
    assert stored["made_from"]["version"] == settings.VERSION
    stored["made_from"]["version"] = settings.VERSION - 1
    stored["fingerprint"] = settings.fingerprint(stored["made_from"])
    del stored["states"], stored["inferred"]
    (workdir / "out" / "a" / "result.json").write_text(json.dumps(stored))
    capsys.readouterr()
    assert run(workdir, "--no_meshes") == 0
    assert "done before" not in capsys.readouterr().out and result(workdir)["states"]["class_1"] == "given"


@pytest.mark.parametrize("options", [{}, {"states": True}])
def test_a_real_network_takes_both(tmp_path, options):
    """An untrained network, through the command line: any checkpoint can be asked, told the states or not."""
    from helpers.formula_hearts import write_checkpoint

    (tmp_path / "data").mkdir()
    write_checkpoint(tmp_path / "checkpoint.pth", **options)
    hide(tmp_path / "data" / "a.nii.gz", [])
    assert run(tmp_path, "--given", "1,2", "--num_surface_points", 64, cells=16) == 0
    assert result(tmp_path)["inferred"] == NAMES[2:]
    hide(tmp_path / "data" / "a.nii.gz", [3])
    assert run(tmp_path, "--annotated", "1,2,4,5,6,7,8", "--complete", "--no_meshes") == 0
    assert result(tmp_path)["inferred"] == ["class_3", "class_9"]
    assert checkpoint_file.load_checkpoint(tmp_path / "checkpoint.pth")["epoch"] == 3


def test_a_structure_that_the_image_ends_in_is_cut(workdir):
    """Cut is seen: its rows are given ones, and all of them are drawn without an option."""
    truth, frame = make_heart()
    write_label_map(workdir / "data" / "a.nii.gz", np.ascontiguousarray(truth[:, :20]), frame.affine)
    assert run(workdir, "--no_meshes") == 0
    states = result(workdir)["states"]
    border = {f"class_{c}" for c in np.unique(truth[:, 19]) if c}
    assert {name for name, word in states.items() if word == "cut"} == border and len(border) == 4
    assert {row["class_name"] for row in metrics(workdir) if row["observed"] == "given"} == set(NAMES[:8])
    assert set(np.unique(drawn(workdir))) == {*range(9)}


def test_baselines_beside_what_is_inferred(workdir):
    """They know the whole heart's frame and truth, as without --given; the means of both kinds have them, too."""
    make_case(workdir / "data" / "a.npz")
    make_case(workdir / "data" / "t.npz", radius_mm=9.0)
    for split, name in (("train", "t"), ("val", "a")):
        (workdir / "data" / f"{split}.csv").write_text(f"case_id,file\n{name},{name}.npz\n")
    how = ["--train_csv", workdir / "data" / "train.csv", "--no_meshes", "--given", "1,2,3"]
    assert run(workdir, *how, source="data/val.csv") == 0
    rows = {row["class_name"]: row for row in metrics(workdir)}
    assert min(float(rows[name]["mean_shape_dice"]) for name in NAMES[:8]) > 0.9
    content = json.loads((workdir / "out" / "metrics.json").read_text())["observed"]
    for kind, classes in (("given", range(1, 4)), ("inferred", range(4, 9))):
        for column in ("mean_shape_dice", "nearest_heart_dice"):
            mean = np.mean([float(rows[f"class_{c}"][column]) for c in classes])
            assert content[kind]["mean of classes"][column] == pytest.approx(mean, abs=1e-6)


def test_what_has_no_voxel_is_named_where_something_is_to_be_inferred(workdir, capsys):
    """Nobody may have looked for it; --annotated says."""
    make_case(workdir / "data" / "a.npz")
    assert run(workdir, "--given", "1,2", "--no_meshes") == 0
    said = capsys.readouterr()
    note = "note: a: class_9: no voxel in the map, taken as absent, and what is drawn of them is spurious; --annotated"
    assert note in said.out + said.err
    hide(workdir / "data" / "b.nii.gz", [3])
    (workdir / "data" / "a.npz").unlink()
    assert run(workdir, "--complete", "--no_meshes") == 0
    said = capsys.readouterr()
    assert (
        "note: b: class_3, class_9: no voxel in the map, taken as absent, so they are not inferred"
        in said.out + said.err
    )
    assert run(workdir, "--no_meshes") == 0
    said = capsys.readouterr()
    assert "no voxel in the map" not in said.out + said.err


def test_notes_are_said_again_where_a_heart_was_done_before(workdir, capsys):
    hide(workdir / "data" / "a.nii.gz", [3])
    assert run(workdir, "--no_meshes", "--complete") == 0
    capsys.readouterr()
    note = "class_3, class_9: no voxel in the map, taken as absent"
    assert any(text.startswith(note) for text in result(workdir)["notes"])
    assert run(workdir, "--no_meshes", "--complete") == 0
    assert f"note: a (done before): {note}" in capsys.readouterr().out


def test_many_notes_of_hearts_done_before_are_counted():
    lines = earlier_notes([{"case_id": "a", "notes": [f"number {n}" for n in range(25)]}, {"case_id": "b"}])
    assert lines[:20] == [f"note: a (done before): number {n}" for n in range(20)] and len(lines) == 22
    assert lines[20].startswith("and 5 more notes about them")
    assert lines[21].startswith("an earlier version made 1 of them, and kept no notes")
    assert earlier_notes([{"case_id": "a", "notes": []}]) == []


def test_a_spacing_that_does_not_divide_the_image_infers_nothing(workdir):
    make_case(workdir / "data" / "a.npz")
    assert run(workdir, "--no_meshes", "--spacing", 2.7) == 0
    assert not (workdir / "out" / "a" / "inferred.nii.gz").exists()
