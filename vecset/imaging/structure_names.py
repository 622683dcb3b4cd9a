"""Names of heart structures as data sets and programs write them: which class a name stands for, when two are equal.
The names and aliases are those of the tables of vecset/imaging/classes.py.

`class_of` knows a structure by the words of its name, in any order and spelling: "LV", "Left ventricle",
"heart_ventricle_left", "LV blood pool" and "LeftVentricle" are LV. A name with a word that it does not know stands for
nothing ("LV infarct", "lung left"), and so does one that fits several classes ("ventricle", "heart").
"""

import re
import unicodedata
from collections.abc import Sequence

from vecset.imaging.classes import STRUCTURES, ClassNames

# What a structure begins at, which it touches in any heart.
BEGINS_AT = {"LAA": "LA", "PV": "LA", "Coronary": "Aorta", "SVC": "RA", "IVC": "RA"}

# What may stand beside any name without changing it, and beside that of a chamber (its inside).
_FILLERS = frozenset(["heart", "hearts", "cardiac", "human", "of", "the"])
_INSIDE = frozenset(["cavity", "blood", "pool", "bloodpool", "lumen", "chamber"])
_CHAMBERS = ("LA", "LV", "RA", "RV")
_BY_WORDS = {
    frozenset(alias.split()): name
    for name, known in STRUCTURES.items()
    for alias in (name.casefold().replace("_", " "), *known["aliases"])
}
_JOINED = {  # names of two or more words written as one: "leftventricle"
    "".join(order): name
    for name, known in STRUCTURES.items()
    for n in map(str.split, known["aliases"])
    for order in (n, n[::-1], n[1:] + n[:1])
    if len(n) > 1
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
    "superior_vena_cava": "SVC",
    "inferior_vena_cava": "IVC",
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
    """The structure of HEART16_CLASSES (vecset/imaging/classes.py) that the name of a structure stands for, e.g. "LV"
    for "heart_ventricle_left"; None where it is unknown or fits several."""
    plain = unicodedata.normalize("NFKC", str(name))
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", plain)  # LeftVentricle
    for text in (apart, plain):
        words = _words(text)
        found = _BY_WORDS.get(words)
        if found is None and _BY_WORDS.get(words - _INSIDE) in _CHAMBERS:
            found = _BY_WORDS[words - _INSIDE]
        if found is None and len(words) == 1:
            found = _JOINED.get(next(iter(words)))
        if found:
            return found
    return None


def _words(text):
    return frozenset(re.findall(r"[^\W_]+", text.casefold())) - _FILLERS


def is_automatic(name: str) -> bool:
    """Whether a program made this name up, so that it says nothing: "", "Segment_1", "label 3", "L1.0", "7"."""
    return _AUTOMATIC.fullmatch(name_key(name)) is not None


def alias_key(name: str) -> frozenset:
    """Equal for texts that are one alias of a project's table: the same words, in any order and case."""
    words = frozenset(re.findall(r"[^\W_]+", name_key(name)))
    return words or frozenset([name_key(name)])


def class_named(name: str, class_names: Sequence[str]) -> int | None:
    """The id 1..C of the class among `class_names` (C,) that `name` stands for: the one of the same name, else the one
    with that alias in the project's table (`ClassNames`), else the only one that stands for the same structure; None
    where there is none."""
    keys = [name_key(own) for own in class_names]
    if keys.count(name_key(name)) == 1:
        return keys.index(name_key(name)) + 1
    aliases = getattr(class_names, "aliases", {})
    if isinstance(class_names, ClassNames):
        key = alias_key(name)
        found = [c for c, own in enumerate(class_names, 1) if key in map(alias_key, (own, *aliases.get(own, ())))]
        if len(found) == 1:
            return found[0]
    structure = class_of(name)
    alike = [
        c
        for c, own in enumerate(class_names, 1)
        if structure and structure in map(class_of, (own, *aliases.get(own, ())))
    ]
    return alike[0] if len(alike) == 1 else None
