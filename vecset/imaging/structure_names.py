"""Names of heart structures as data sets and programs write them: which class a name stands for, when two are equal.

`class_of` knows a structure by the words of its name, in any order and spelling: "LV", "Left ventricle",
"heart_ventricle_left", "LV blood pool" and "LeftVentricle" are LV. A name with a word that it does not know stands for
nothing ("LV infarct", "RV myocardium", "lung left"), and so does one that fits several classes ("ventricle", "heart").
"""

import re
import unicodedata
from collections.abc import Sequence

# What may stand beside any name without changing it, and beside that of a chamber (its inside).
_FILLERS = frozenset(["heart", "hearts", "cardiac", "human", "of", "the"])
_INSIDE = frozenset(["cavity", "blood", "pool", "bloodpool", "lumen", "chamber"])
_CHAMBERS = ("LA", "LV", "RA", "RV")
# The words of each class, in any order. The first column names classes of vecset/imaging/classes.py.
_WORDS = {
    "Myocardium": (
        "myocardium, myocard, myo, lv myocardium, lv myo, lvm, lvmyo, mlv, left ventricle myocardium, "
        "left ventricular myocardium, left ventricle wall, left ventricular wall, lv wall"
    ),
    "LA": "la, left atrium, left atrial, left atria, lac, labp",
    "LV": "lv, left ventricle, left ventricular, lvc, lvbp",
    "RA": "ra, right atrium, right atrial, right atria, rac, rabp",
    "RV": "rv, right ventricle, right ventricular, rvc, rvbp",
    "Aorta": "aorta, ao, ascending aorta",
    "PA": "pa, mpa, pulmonary artery, pulmonary arteries, pulmonary trunk, main pulmonary artery",
    "LAA": (
        "laa, la appendage, left atrial appendage, left atrium appendage, appendage atrial left, left auricle, "
        "left atrial auricle, left auricular appendage"
    ),
    "Coronary": (
        "coronary, coronaries, coronary artery, coronary arteries, coronary tree, left coronary artery, "
        "left coronary, right coronary artery, right coronary, lca, rca"
    ),
    "PV": (
        "pv, pvs, pulmonary vein, pulmonary veins, left pulmonary vein, left pulmonary veins, right pulmonary vein, "
        "right pulmonary veins, left superior pulmonary vein, left inferior pulmonary vein, "
        "right superior pulmonary vein, right inferior pulmonary vein, lspv, lipv, rspv, ripv"
    ),
}
_BY_WORDS = {frozenset(n.split()): c for c, names in _WORDS.items() for n in names.split(", ")}
_JOINED = {  # names of two or more words written as one: "leftventricle"
    "".join(order): c
    for c, names in _WORDS.items()
    for n in names.split(", ")
    for order in (n.split(), n.split()[::-1], n.split()[1:] + n.split()[:1])
    if len(order) > 1
}
# What programs call a segment that nobody named: "Segment_1", "label 3", "L1.0", "7".
_AUTOMATIC = re.compile(
    r"(new|unnamed|untitled|unknown|none)?[ _.-]*"
    r"(segment|segmentation|label|labels|l|value|structure|region|roi|object|class)?[ _.-]*(\d+(\.0+)?)?"
)
# What TotalSegmentator calls its files: github.com/wasserth/TotalSegmentator, totalsegmentator/map_to_binary.py, tasks
# total (versions 1 and 2), heartchambers_highres and coronary_arteries.
TOTALSEGMENTATOR = {
    "heart_myocardium": "Myocardium",
    "heart_atrium_left": "LA",
    "heart_ventricle_left": "LV",
    "heart_atrium_right": "RA",
    "heart_ventricle_right": "RV",
    "aorta": "Aorta",
    "pulmonary_artery": "PA",
    "atrial_appendage_left": "LAA",
    "coronary": "Coronary",
    "coronary_arteries": "Coronary",
    "pulmonary_vein": "PV",
}
# How --structures may say which class a file of one structure stands for.
FILE_PRESETS = {
    "totalsegmentator": "the names that TotalSegmentator gives",
    "names": "any usual spelling of the structures' names, as LV, left_ventricle or LeftVentricle",
}


def name_key(name: str) -> str:
    """Equal for names that are the same to a reader and to a file system: NFKC, small letters, one space for each run
    of white space, none at the ends."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", str(name)).casefold())
    return " ".join(folded.split())


def class_of(name: str) -> str | None:
    """The class of `HEART_CLASSES` (vecset/imaging/classes.py) that the name of a structure stands for, e.g. "LV" for
    "heart_ventricle_left"; None where it is unknown or fits several."""
    plain = unicodedata.normalize("NFKC", str(name))
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", plain)  # LeftVentricle
    for text in (apart, plain):
        words = frozenset(re.findall(r"[^\W_]+", text.casefold())) - _FILLERS
        found = _BY_WORDS.get(words)
        if found is None and _BY_WORDS.get(words - _INSIDE) in _CHAMBERS:
            found = _BY_WORDS[words - _INSIDE]
        if found is None and len(words) == 1:
            found = _JOINED.get(next(iter(words)))
        if found:
            return found
    return None


def is_automatic(name: str) -> bool:
    """Whether a program made this name up, so that it says nothing: "", "Segment_1", "label 3", "L1.0", "7"."""
    return _AUTOMATIC.fullmatch(name_key(name)) is not None


def class_named(name: str, class_names: Sequence[str]) -> int | None:
    """The id 1..C of the class among `class_names` (C,) that `name` stands for: the one of the same name, else the only
    one that stands for the same structure; None where there is none."""
    keys = [name_key(own) for own in class_names]
    if keys.count(name_key(name)) == 1:
        return keys.index(name_key(name)) + 1
    structure = class_of(name)
    alike = [c for c, own in enumerate(class_names, 1) if structure and class_of(own) == structure]
    return alike[0] if len(alike) == 1 else None
