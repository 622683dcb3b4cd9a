"""Names that look like several scans of one patient are told, with the expression to give; other names are not."""

import re

import pytest

from vecset.common.errors import InputError
from vecset.data.patients import find_patients, straddling
from vecset.data.splits import check_patients, group_of

SEVERAL = {  # names: number of patients
    "ACDC": ([f"patient{p:03d}_frame{f}_gt" for p in range(1, 7) for f in ("01", "09")], 6),
    "BIDS": (["sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1"], 2),
    "ED and ES": (["P01_ED", "P01_ES", "P02_ED", "P02_ES"], 2),
    "names of people": (["smith_ED", "smith_ES", "jones_ED"], 2),
    "t0": (["case_12_t0", "case_12_t1", "case_13_t0"], 2),
    "letters": (["10001_a", "10001_b", "10002_a", "10003_a"], 3),
    "letters without a sign": (["10001a", "10001b", "10002a"], 2),
    "phases": (["ct_001_phase40", "ct_001_phase70", "ct_002_phase40"], 2),
    "percent": (["001_0%", "001_10%", "002_0%", "002_10%"], 2),
    "M&Ms": (["A0S9V9_sa_ED", "A0S9V9_sa_ES", "B1_sa_ED", "B1_sa_ES"], 2),
    "M&Ms-2": (["001_SA_ED_gt", "001_SA_ES_gt", "001_LA_ED_gt", "002_SA_ED_gt"], 2),
    "CAMUS": ([f"patient{p:04d}_{v}_{m}_gt" for p in range(3) for v in ("2CH", "4CH") for m in ("ED", "ES")], 3),
    "numbers": (["patient001_01", "patient001_02", "patient002_01", "patient003_01"], 3),
    "dates": (["12_20190103", "12_20200304", "13_20190101", "14_20190101"], 3),
    "dates with dashes": (["P1_2019-01-03", "P1_2020-03-04", "P2_2019-01-01"], 2),
    "scans": (["p01_scan1", "p01_scan2", "p02_scan1"], 2),
    "one patient": (["patient001_frame01", "patient001_frame09"], 1),
    "pre and post": (["case7_pre", "case7_post", "case8_pre"], 2),
    "some names otherwise": (["patient001_frame01_gt", "patient001_frame09_gt", "patient2_frame01", "extra_heart"], 3),
    "visits": (["LIDC-001-visit1", "LIDC-001-visit2", "LIDC-002-visit1"], 2),
    "days": (["covid19-A-0003_day1", "covid19-A-0003_day3", "covid19-A-0004_day1"], 2),
    "many frames": ([f"p{p}_frame{f:02d}" for p in range(3) for f in range(30)], 3),
    "two observers": (["p01_obs1", "p01_obs2", "p02_obs1"], 2),
    "copies that were changed": (["heart7_aug0", "heart7_aug1", "heart8_aug0"], 2),
    "ED and ES without a sign": (["001ED", "001ES", "002ED", "002ES"], 2),
    "times without a sign": (["patient001t0", "patient001t1", "patient002t0"], 2),
    "letters and a word": (["10001_a_seg", "10001_b_seg", "10002_a_seg"], 2),
    "folders": (["patient001_frame01", "patient001_frame02", "patient002_frame01"], 2),
    "folders of BIDS": (["sub-01_ses-1_anat_sub-01_ses-1_dseg", "sub-01_ses-2_anat_sub-01_ses-2_dseg"], 1),
    "blanks": (["P01 ED", "P01 ES", "P02 ED"], 2),
    "blanks and numbers": (["P1 frame 1", "P1 frame 2", "P2 frame 1"], 2),
    "UK Biobank": (["1000015_20209_2_0", "1000015_20209_3_0", "1000027_20209_2_0"], 2),
    "moment first": (["ED_P01", "ES_P01", "ED_P02", "ES_P02"], 2),
}
ALONE = {
    "ImageCAS": [f"{i}.label" for i in range(1, 999)],
    "phantoms": [f"phantom_{i:04d}" for i in range(20)],
    "hippocampus": [f"hippocampus_{i:03d}" for i in range(20)],
    "channels": [f"hippocampus_{i:03d}_0000" for i in range(20)],
    "MM-WHS": [f"{m}_train_{k}{i}_label" for m, k in (("ct", 10), ("mr", 10)) for i in range(10, 20)],
    "hearts": [f"heart{i}" for i in range(20)],
    "numbers": [str(i) for i in range(20)],
    "TotalSegmentator": [f"s{i:04d}" for i in range(20)],
    "patients": [f"patient_{i:03d}" for i in range(20)],
    "cases": [f"case_{i:05d}" for i in range(20)],
    "sites": [f"site{s}_{i:03d}" for s in (1, 2) for i in range(5)],
    "scans of people": [f"heart_scan_{i}" for i in range(9)],
    "volumes": [f"ct_vol_{i}" for i in range(9)],
    "years": [f"2020_{i:03d}" for i in range(9)],
    "LIDC": [f"LIDC-IDRI-{i:04d}" for i in range(9)],
    "a data set's number": [f"Dataset027_ACDC_{i:03d}" for i in range(9)],
    "a version": [f"TotalSeg_v2_s{i:04d}" for i in range(9)],
    "one moment each": [f"patient{i:03d}_ED" for i in range(5)],
    "one frame each": [f"patient{i:03d}_frame01" for i in range(5)],
    "one session each": [f"sub-{i:02d}_ses-1_dseg" for i in range(5)],
    "phantom a, b": ["phantom_a", "phantom_b"],
    "HVSMR": [f"pat{i}_cropped_seg" for i in range(20)],
    "Edwards": [f"edwards_{i}" for i in range(5)],
    "draws of a model": [f"rodero_d{i:03d}" for i in range(20)],
    "regions": [f"topcow_ct_roi_{i:03d}" for i in range(20)],
    "masks": [f"patient{i:03d}_mask" for i in range(20)],
    "copies of a browser": ["heart (1)", "heart (2)", "heart (3)"],
    "one": ["patient001_frame01"],
    "none": [],
}


@pytest.mark.parametrize("kind", SEVERAL)
def test_the_expression_that_is_told_keeps_every_patient_whole(kind):
    names, patients = SEVERAL[kind]
    found = find_patients(names)
    assert found is not None
    groups = {name: group_of(name, re.compile(found.regex)) for name in names}  # as create_csv.py reads it
    assert groups == found.of and len(set(groups.values())) == patients


@pytest.mark.parametrize("kind", ALONE)
def test_names_of_one_scan_each_are_left_alone(kind):
    assert find_patients(ALONE[kind]) is None


def test_patients_on_both_sides_are_found():
    found = find_patients(SEVERAL["ED and ES"][0])
    assert straddling(found, ["P01_ED", "P02_ED", "P02_ES"], ["P01_ES"]) == ["P01"]
    assert straddling(found, ["P01_ED", "P01_ES"], ["P02_ED", "P02_ES"]) == []


def test_before_the_split_names_are_told_and_a_wrong_expression_is_refused():
    names = SEVERAL["ACDC"][0]
    (line,) = check_patients(names, None)
    assert r"--group_regex '^(.+?)_frame\d+'" in line and "patient001_frame01_gt and patient001_frame09_gt" in line
    assert check_patients(names, r"^(.+?)_frame\d+") == check_patients(names, ".+") == []
    for regex, said in ((r"(", "a regular expression"), (r"case(\d+)", "no match"), ("patient", "at least 2 patients")):
        with pytest.raises(InputError, match=said):
            check_patients(names, regex)
