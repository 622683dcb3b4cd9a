"""Names of structures: which class each stands for, which are equal, which say nothing."""

import pytest

from vecset.imaging.classes import HEART16_CLASSES, ClassNames
from vecset.imaging.structure_names import class_named, class_of, is_automatic, name_key


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("heart_myocardium", "Myocardium"),
        ("heart_atrium_left", "LA"),
        ("heart_ventricle_left", "LV"),
        ("heart_atrium_right", "RA"),
        ("heart_ventricle_right", "RV"),
        ("aorta", "Aorta"),
        ("pulmonary_artery", "PA"),
        ("pulmonary_vein", "PV"),
        ("atrial_appendage_left", "LAA"),
        ("coronary_arteries", "Coronary"),
        ("Left ventricle", "LV"),
        ("left  VENTRICLE", "LV"),
        ("LeftVentricle", "LV"),
        ("leftventricle", "LV"),
        ("LV blood pool", "LV"),
        ("Blood cavity of the left ventricle", "LV"),
        ("left ventricle of heart", "LV"),
        ("the myocardium of the left ventricle", "Myocardium"),
        ("MYO", "Myocardium"),
        ("MLV", "Myocardium"),
        ("LVC", "LV"),
        ("left atrium blood cavity", "LA"),
        ("ascending aorta", "Aorta"),
        ("Pulmonary Artery", "PA"),
        ("Left atrial appendage", "LAA"),
        ("right ventricular cavity", "RV"),
        ("ＬＶ", "LV"),
        ("superior_vena_cava", "SVC"),
        ("Inferior vena cava", "IVC"),
        ("RV myocardium", "RV_wall"),
        ("right ventricular wall", "RV_wall"),
        ("LeftAtriumWall", "LA_wall"),
        ("heart_coronary_sinus", "Coronary_sinus"),
    ],
)
def test_known_names(name, expected):
    assert class_of(name) == expected


@pytest.mark.parametrize(
    "name",
    [
        "heart",
        "ventricle",
        "left",
        "LV infarct",
        "lung_upper_lobe_left",
        "portal_vein_and_splenic_vein",
        "vena cava",
        "sinus",
        "artery",
        "blood pool",
        "descending aorta",
        "myocardium blood pool",
        "LA 1",
        "aorta calcification",
    ]
    + ["", " ", "_", "1"],
)
def test_names_that_are_unknown_or_fit_several(name):
    assert class_of(name) is None


def test_each_class_is_named_by_its_own_name():
    assert [class_of(name) for name in HEART16_CLASSES] == list(HEART16_CLASSES)


@pytest.mark.parametrize(
    "name", ["Segment_1", "segment 12", "Label 3", "L1.0", "L7", "7", "", " ", "New segment", "ROI-2"]
)
def test_automatic_names(name):
    assert is_automatic(name)


@pytest.mark.parametrize("name", ["LV", "LA", "Segment LV", "liver", "label of LV"])
def test_names_that_somebody_gave(name):
    assert not is_automatic(name)


@pytest.mark.parametrize(
    ("one", "other"), [("RV", " rv"), ("e\u0301", "\u00e9"), ("a  b", "A\u00a0b"), ("STRASSE", "straße")]
)
def test_equal_names(one, other):
    assert name_key(one) == name_key(other)


def test_a_name_among_the_classes_of_a_project():
    assert class_named("heart_ventricle_right", ["RV", "Myocardium", "LV"]) == 1
    assert class_named("lv", ["RV", "Myocardium", "Left ventricle"]) == 3
    assert class_named("Tumour", ["RV", "tumour "]) == 2
    assert class_named("LA", ["RV", "Myocardium"]) is None
    assert class_named("Left ventricle", ["LV", "LV cavity"]) is None  # stands for either


def test_aliases_of_a_project():
    names = ClassNames(["Cavity", "Plaque", "LA"], {"Cavity": ["lv"], "Plaque": ["calcium of the vessel"]})
    assert class_named("Vessel calcium of the", names) == 2
    assert class_named("LV", names) == 1
    assert class_named("left ventricle", names) == 1  # an alias stands for a structure, too
    assert class_named("left atrium", names) == 3
    assert class_named("vessel", names) is None
