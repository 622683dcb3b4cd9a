"""Which files of a folder are hearts, what each is called, and what is named as left out."""

import os

import nibabel as nib
import numpy as np
import pytest
from helpers.prepare_runs import contents, make_maps, run

from vecset.cluster import shards
from vecset.common.errors import InputError
from vecset.data.case_file import read_case
from vecset.data.label_folder import (
    NoLabelMaps,
    Selection,
    look_into,
    relative_name,
    require_apart,
)
from vecset.data.structure_files import find_sources
from vecset.imaging.image_file import case_id, case_name
from vecset.inference.inputs import find_hearts
from vecset.pipeline.job import Pipeline
from vecset.pipeline.main import get_parser


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def found(folder, **selection):
    return [relative_name(p, folder) for p in look_into(folder, Selection(**selection)).paths]


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(values, np.uint8), np.eye(4)), path)


@pytest.mark.parametrize(
    "name, why",
    [
        ("a.mhd", "convert each to one .nii.gz"),
        ("a.nhdr", "convert each to one .nii.gz"),
        ("a.hdr", "convert each to one .nii.gz"),
        ("a.img", "without the header"),
        ("a.mgz", "convert them to .nii.gz"),
        ("a.nii.bz2", "convert them to .nii.gz"),
        ("a.dcm", "convert the segmentation to .nii.gz"),
        ("a.zip", "unpack"),
        ("a.stl", "surfaces"),
        ("._b.nii.gz", "hidden"),
    ],
)
def test_what_is_no_label_map_is_named_as_left_out(tmp_path, name, why):
    touch(tmp_path, "heart1.nii.gz", name)
    left = look_into(tmp_path).left_out
    assert len(left) == 1 and left[0].startswith("1 file left out") and why in left[0] and left[0].endswith(name)
    (tmp_path / "heart1.nii.gz").unlink()
    with pytest.raises(NoLabelMaps, match="no label maps in it"):
        look_into(tmp_path)


def test_a_header_counts_once_with_its_voxels_and_tables_are_no_images(tmp_path):
    touch(tmp_path, "1.nii.gz", "2.mhd", "2.raw", "3.hdr", "3.img", "4.nhdr", "4.raw.gz")
    touch(tmp_path, "x.json", "notes.txt", "train.csv", "._1.nii.gz", ".tmp-x.nii.gz")
    assert found(tmp_path) == ["1.nii.gz"]
    assert look_into(tmp_path).left_out == [
        "3 files left out (header and voxels are in two files: convert each to one .nii.gz): 2.mhd, 3.hdr, 4.nhdr"
    ]


def test_sub_folders_are_told_and_read_on_request(tmp_path):
    touch(tmp_path, *(f"sub-0{n}/anat/sub-0{n}_dseg.nii.gz" for n in (1, 2)), ".git/x.nii.gz")
    with pytest.raises(NoLabelMaps, match="2 label maps in sub-folders left out, such as sub-01/anat/sub-01_dseg"):
        look_into(tmp_path)
    assert found(tmp_path, recursive=True) == ["sub-01/anat/sub-01_dseg.nii.gz", "sub-02/anat/sub-02_dseg.nii.gz"]
    assert case_id("sub-01/anat/sub-01_dseg.nii.gz") == "sub-01_anat_sub-01_dseg"
    touch(tmp_path, "top.nii.gz")
    assert found(tmp_path) == ["top.nii.gz"] and "give --recursive" in look_into(tmp_path).left_out[0]
    touch(tmp_path, "a/b_c.nii.gz", "a_b/c.nii.gz")
    with pytest.raises(InputError, match="would both become a_b_c.npz"):
        look_into(tmp_path, Selection(recursive=True))


def test_dicom_in_sub_folders_is_told(tmp_path):
    touch(tmp_path, "p1/0001.dcm", "p1/0002.dcm")
    with pytest.raises(NoLabelMaps, match="2 DICOM files in sub-folders"):
        look_into(tmp_path)


def test_a_circle_of_links_ends(tmp_path):
    touch(tmp_path, "p1/x.nii.gz")
    os.symlink(tmp_path, tmp_path / "p1" / "again")
    assert found(tmp_path, recursive=True) == ["p1/x.nii.gz"]


@pytest.mark.parametrize(
    "label, other, kind",
    [
        ("ct_1_label.nii.gz", "ct_1_image.nii.gz", "scan"),  # MM-WHS
        ("1.label.nii.gz", "1.img.nii.gz", "scan"),  # ImageCAS
        ("sub-01_dseg.nii.gz", "sub-01_T1w.nii.gz", "scan"),  # BIDS
        ("case_1.nii.gz", "case_1_0000.nii.gz", "scan"),  # nnU-Net
        ("p1_seg.nrrd", "p1_ct.nii.gz", "scan"),
        ("p1_seg.nii.gz", "p1_probseg.nii.gz", "probability map"),
        ("p1.nii.gz", "p1_uncertainty.nii.gz", "uncertainty map"),
    ],
)
def test_scans_beside_label_maps_are_left_out_and_told(tmp_path, label, other, kind):
    touch(tmp_path, label, other)
    assert found(tmp_path) == [label]
    assert look_into(tmp_path).left_out == [f"1 {kind} left out ({kind}s beside label maps, by their names): {other}"]
    (tmp_path / label).unlink()
    assert found(tmp_path) == [other]  # alone it is what the user gave


def test_names_that_are_no_pairs_are_all_hearts(tmp_path):
    names = ["1.label.nii.gz", "2.label.nii.gz", "phantom_0001.nii.gz", "heart_ct.nii.gz", "heart_mr.nii.gz"]
    touch(tmp_path, *names)
    assert sorted(found(tmp_path)) == sorted(names) and not look_into(tmp_path).left_out


def test_folders_of_nnu_net(tmp_path):
    touch(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    assert found(tmp_path, recursive=True) == ["labelsTr/a.nii.gz"]


def test_a_pattern_chooses_and_names_the_others(tmp_path):
    touch(tmp_path, "a_gt.nii.gz", "a.nii.gz", "b_gt.nii.gz", "b.nii.gz")
    assert found(tmp_path, pattern="*_gt.nii.gz") == ["a_gt.nii.gz", "b_gt.nii.gz"]
    left = look_into(tmp_path, Selection(pattern="*_gt.nii.gz")).left_out
    assert left == ["2 files left out (do not match --pattern '*_gt.nii.gz'): a.nii.gz, b.nii.gz"]
    with pytest.raises(NoLabelMaps, match="4 files left out"):
        look_into(tmp_path, Selection(pattern="*.mha"))


def test_names_that_differ_in_capital_letters_or_unicode_form_alone(tmp_path):
    touch(tmp_path, "Heart.nii.gz", "heart.mha")
    with pytest.raises(InputError, match="differ in capital letters"):
        look_into(tmp_path)
    other = touch(tmp_path / "other", "caf\u00e9.nii.gz", "cafe\u0301.mha")
    with pytest.raises(InputError, match="Unicode form"):
        look_into(other)


def test_structures_in_sub_folders(tmp_path):
    ones, several = np.ones((4, 4, 4)), np.arange(64).reshape(4, 4, 4) % 4
    for name in ("s1/LV.nii.gz", "s1/RV.nii.gz"):
        save(tmp_path / name, ones)
    with pytest.raises(InputError, match="--structures names"):
        find_sources(tmp_path, Selection(recursive=True))
    save(tmp_path / "s1/LV.nii.gz", several)  # hearts that are called so
    assert len(find_sources(tmp_path, Selection(recursive=True)).paths) == 2


def test_folder_is_naturally_sorted_and_collisions_are_refused(tmp_path):
    for name in ("10.nii.gz", "2.nii.gz", "1.nii.img.nii.gz", "a.nii", ".tmp-x-1-2-z.nii.gz", "b.txt"):
        (tmp_path / name).write_bytes(b"")
    assert found(tmp_path) == ["1.nii.img.nii.gz", "2.nii.gz", "10.nii.gz", "a.nii"]
    assert case_name("x/1.nii.img.nii.gz") == "1.nii.img" and case_name("A.NII") == "A"
    (tmp_path / "a.nii.gz").write_bytes(b"")
    with pytest.raises(InputError, match="a.nii.*a.npz"):
        look_into(tmp_path)
    (tmp_path / "a.nii.gz").unlink()
    for other in ("C.NRRD", "a.mha"):
        (tmp_path / other).write_bytes(b"")
    assert case_name("x/b.seg.nrrd") == "b.seg" and case_name("1.MHA") == "1"
    with pytest.raises(InputError, match="a.nii and a.mha|a.mha and a.nii"):
        look_into(tmp_path)
    (tmp_path / "a.mha").unlink()
    assert set(found(tmp_path)) >= {"C.NRRD", "a.nii"}
    (tmp_path / "empty").mkdir()
    for name, words in (("empty", "no label maps"), ("no", "no such folder"), ("b.txt", "a file")):
        with pytest.raises(InputError, match=words):
            look_into(tmp_path / name)


def test_sub_folders_and_patterns_through_prepare_data_and_the_shards(tmp_path, capsys):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for patient in ("p1", "p2"):
        make_maps(source / patient, ["heart_seg.nii.gz", "other.nii.gz"])
    assert run(source, out, "--recursive", "--pattern", "*_seg.nii.gz") == 0
    said = capsys.readouterr()
    assert sorted(contents(out)) == ["p1_heart_seg.npz", "p2_heart_seg.npz"]
    assert "2 files left out (do not match --pattern '*_seg.nii.gz'): p1/other.nii.gz, p2/other.nii.gz" in said.err
    assert read_case(out / "p1_heart_seg.npz").meta["source_name"] == "p1/heart_seg.nii.gz"
    assert run(source, out, "--recursive", "--pattern", "*_seg.nii.gz") == 0
    assert "0 made, 2 skipped" in capsys.readouterr().out
    words = ["--input_dir", str(source), "--output_dir", str(out), "--tasks", "1"]
    prepare = ["--recursive", "--pattern", "*_seg.nii.gz"]
    assert shards.main([*words, "--shard", "0", "--prepare", *prepare]) == 0
    assert capsys.readouterr().out.split() == ["0", "2"]
    (out / "p2_heart_seg.npz").unlink()
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "options").write_text("--recursive --pattern '*_seg.nii.gz'")
    assert shards.main([*words, "--summary", "--logs", str(tmp_path / "logs"), "--again", "x.sh"]) == 1
    assert "1 of 2 case files are there" in capsys.readouterr().out


def test_recursive_and_structures_exclude_each_other(tmp_path, capsys):
    assert run(tmp_path, tmp_path / "out", "--structures", "names", "--recursive") == 2
    assert "--structures and --recursive exclude each other" in capsys.readouterr().err


def test_reconstruction_names_hearts_and_what_is_left_out_alike(tmp_path):
    make_maps(tmp_path / "p1", ["heart_label.nii.gz", "heart_image.nii.gz"])
    told = []
    hearts = find_hearts(tmp_path, selection=Selection(recursive=True), say=told.append)
    assert [h.case_id for h in hearts] == ["p1_heart_label"]
    assert told == ["note: 1 scan left out (scans beside label maps, by their names): p1/heart_image.nii.gz"]
    with pytest.raises(InputError, match="holds neither case files nor label maps.*give --recursive"):
        find_hearts(tmp_path)


def test_the_main_job_reads_sub_folders(tmp_path):
    (tmp_path / "in").mkdir()
    make_maps(tmp_path / "in" / "p1", ["a.nii.gz"])
    words = ["--input_dir", str(tmp_path / "in"), "--output_dir", str(tmp_path / "out"), "--recipe", "tiny"]
    job = Pipeline(get_parser().parse_args([*words, "--prepare_options=--recursive"]), [], print)
    assert [relative_name(p, job.labels) for p in job.label_maps()] == ["p1/a.nii.gz"]
    assert list(job.prepare_stage().inputs()) == ["p1/a.nii.gz"]


def test_scans_in_sub_folders_are_not_counted_as_label_maps(tmp_path):
    touch(tmp_path, "imagesTr/la_1_0000.nii.gz", "imagesTr/la_2_0000.nii.gz", "labelsTr/la_1.nii.gz")
    with pytest.raises(NoLabelMaps, match=r"1 label map in sub-folders left out, such as labelsTr/la_1.nii.gz"):
        look_into(tmp_path)


@pytest.mark.parametrize("name", ["IM0001", "1.2.840.113619.2.55", "series/IM0001", "scan.dcm", "scan.IMA"])
def test_dicom_is_told_by_its_content_where_the_name_does_not(tmp_path, name):
    touch(tmp_path, name, "notes", "3")
    (tmp_path / name).write_bytes(bytes(128) + b"DICM" + bytes(20))
    with pytest.raises(NoLabelMaps) as caught:
        look_into(tmp_path)
    said = str(caught.value)
    assert "DICOM" in said and name in said and "convert the segmentation to .nii.gz" in said
    assert "notes" not in said and "check --input_dir" not in said


def test_a_folder_named_like_an_image_is_looked_into_on_request(tmp_path):
    """As some programs unpack heart1.nii.gz: a folder heart1.nii with the file in it."""
    touch(tmp_path, "heart1.nii/heart1.nii", "heart2.nii.gz")
    assert found(tmp_path, recursive=True) == ["heart1.nii/heart1.nii", "heart2.nii.gz"]
    assert found(tmp_path) == ["heart1.nii", "heart2.nii.gz"]  # and reading it says that it is a folder


def test_results_that_the_next_run_would_take_for_hearts_are_refused(tmp_path):
    inside = tmp_path / "labels" / "out"
    for output_dir, recursive in ((inside, False), (tmp_path / "out", True), (tmp_path / "labels-out", True)):
        require_apart(tmp_path / "labels", output_dir, Selection(recursive=recursive))
    with pytest.raises(InputError, match="would take the results for label maps; give an --output_dir outside"):
        require_apart(tmp_path / "labels", inside, Selection(recursive=True))
