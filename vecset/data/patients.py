"""Names of cases that look like several scans of one patient, and the regular expression that tells the patients apart.

Nothing here decides about a split: `create_csv.py --group_regex` does. It is only said that names look so. What counts
is a number or word that data sets use for the scans of one patient, behind a name that occurs several times:
patient001_frame01, sub-01_ses-2, P01_ED, case_12_t0, 10001_a, ct_001_phase40.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

EACH_ALONE = ".+"  # as --group_regex: each case is a patient of its own
MOST_SCANS = 6  # per patient on average, for names in which only a number or letter tells the scans apart

# Before a number: times or visits of one patient, several readings of one scan, copies that were changed. The name
# before them may be any.
_TIMES = (
    "frame|phase|time|timepoint|tp|t|ses|session|visit|followup|follow-up|fu|cycle|day|week|month|year|date|sys|dia"
    "|obs|observer|rater|reader|expert|annotator|aug|augmented|rot|flip|copy"
)
# Before a number: scans. The name before them must hold a digit, for "heart_scan_12" is a name of a patient.
_SCANS = "scan|series|exam|study|run|rep|acq|vol|image|img|crop|deformed|def|warp|v|s"
_MOMENTS = (
    "ED|ES|EDV|ESV|diastole|systole|diastolic|systolic|diast|syst|end-?diastole|end-?systole|pre|post|pre-?op|post-?op"
    "|baseline|bl|follow-?up|fu|before|after|rest|stress|early|late"
)
_VIEW = r"(?:[ _-](?:SA|LA|SAX|LAX|2CH|3CH|4CH))?"  # as in M&Ms-2 and CAMUS: 001_SA_ED
_ENDS = r"(?=[ _.-]|$)"
_LABELS = r"(?:[ _.-](?:gt|seg|label|labels|mask|dseg))?$"
_LETTERS = r"(?<=\d)[ _.-]?[a-h]" + _LABELS
_NUMBERS = r"(?<=\d)[ _-](?:\d{4}-\d\d-\d\d|\d{5}_\d_\d+|\d+)" + _LABELS  # 1000015_20209_2_0: UK Biobank
_FAMILIES = (  # (pattern of the end, flags, whether the name before must hold a digit, whether few scans are a must)
    (rf"[ _.-](?:{_TIMES})[ _-]?\d+", re.IGNORECASE, False, False),
    (rf"{_VIEW}[ _.-](?:{_MOMENTS}){_ENDS}", re.IGNORECASE, False, False),
    (r"(?<=\d)(?:ED|ES)(?=[ _.-]|$)|(?<=\d)t\d+(?=[ _.-]|$)", re.IGNORECASE, True, False),
    (r"[ _.-]\d+(?:%|pct|percent)", re.IGNORECASE, True, False),
    (rf"[ _.-](?:{_SCANS})[ _-]?\d+", re.IGNORECASE, True, True),
    (_LETTERS, re.IGNORECASE, True, True),
    (_NUMBERS, re.IGNORECASE, True, True),
)
_BIDS = r"^(sub-[0-9A-Za-z]+)"
# Words whose number is that of a place or a part of a data set: center2_001 and center2_002 are two patients.
_PLACES = re.compile(
    r"(?:^|[ _-])(?:site|center|centre|hospital|clinic|vendor|scanner|fold|batch|set|part|group|cohort|dataset|task)"
    r"[ _-]?\d+$|^(?:19|20)\d{2}(?:\d{4})?$|^(?:19|20)\d{2}-\d\d-\d\d$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Patients:
    """regex: that finds the patient in every name; of: {case id: patient}."""

    regex: str
    of: dict

    @property
    def repeated(self) -> list[str]:
        """The patients with several scans, in the order of their names."""
        times = Counter(self.of.values())
        return [name for name, count in times.items() if count > 1]

    def example(self) -> str:
        """Two case ids of one patient, as text."""
        first = self.repeated[0]
        return " and ".join([case for case, patient in self.of.items() if patient == first][:2])


def find_patients(case_ids: Iterable[str]) -> Patients | None:
    """The patients that the names seem to tell, or None where each name seems to be a patient of its own."""
    case_ids = list(case_ids)
    if len(case_ids) < 2:
        return None
    if all(re.match(_BIDS, case) for case in case_ids):
        found = _patients(_BIDS, case_ids)
        return found if found.repeated else None
    for end, flags, with_digit, few in _FAMILIES:
        stems = [_stem(case, re.compile(end, flags)) for case in case_ids]
        stems = [stem if stem and _is_patient(stem, with_digit) else None for stem in stems]
        times = Counter(stem for stem in stems if stem)
        if max(times.values(), default=0) < 2 or (len(times) < 2 and not _one_patient(times, end)):
            continue
        if few and sum(times.values()) > MOST_SCANS * len(times):
            continue
        found = _shortest(end, case_ids, stems)
        if found:
            return found
    return _by_first_word(case_ids)


def _by_first_word(case_ids):
    """The Patients of names that begin with the moment: ED_P01 and ES_P01."""
    end = re.compile(rf"(?:(?:{_TIMES})\d+|(?:{_MOMENTS}))(?=[ _-])", re.IGNORECASE)
    words = {match.group(0) for match in map(end.match, case_ids) if match}
    if not words or not all(map(end.match, case_ids)):
        return None
    found = _patients(f"^(?:{'|'.join(sorted({re.sub(r'[0-9]+', r'[0-9]+', w) for w in words}))})[ _-](.+)$", case_ids)
    return found if found and found.repeated else None


def _stem(case, end):
    """The name before the first place where `end` fits, or None."""
    found = end.search(case, 1)
    return case[: found.start()] if found else None


def _is_patient(stem, with_digit):
    if _PLACES.search(stem):
        return False
    return bool(re.search(r"\d", stem)) or not with_digit


def _one_patient(times, end):
    """Whether names with a single stem are scans of one patient: it is numbered, and a time or moment says so."""
    return end in (_FAMILIES[0][0], _FAMILIES[1][0]) and bool(re.search(r"\d", next(iter(times))))


def _shortest(end, case_ids, stems):
    """The Patients by the plainest expression that gives just the `stems` (None: the whole name)."""
    ends = sorted({_plain(case[len(stem) :], end) for case, stem in zip(case_ids, stems) if stem}, key=_longest_first)
    wanted = {case: stem or case for case, stem in zip(case_ids, stems)}
    written = "|".join(ends) if len(ends) <= 4 else f"(?i:{end})"
    one = ends[0] if len(ends) == 1 else f"(?:{written})"
    for regex in (f"^(.+?){one}", f"^(.+?){one}(?:_|$)", f"^(.+?)(?:{one}.*)?$", f"^(.+?)(?:(?i:{end}).*)?$"):
        found = _patients(regex, case_ids)
        if found and found.of == wanted:
            return found
    return None


def _plain(rest, end):
    """A short expression for how the name goes on behind the patient: "_frame01_gt" -> `_frame\\d+`."""
    text = re.match(end, rest, re.IGNORECASE) or re.match(end.replace(r"(?<=\d)", ""), rest, re.IGNORECASE)
    text = text.group(0)
    if end == _LETTERS:
        return re.sub(r"^([ _.-]?)[A-Za-z]", r"\1[A-Za-z]", text).replace(".", r"\.") + "$"
    shown = re.sub(r"\d+", r"\\d+", text.replace(".", r"\."))
    return shown + ("$" if end == _NUMBERS else "")


def _longest_first(text):
    return -len(text), text


def _patients(regex, case_ids):
    """The Patients by `regex`, or None where it does not fit every name."""
    pattern, of = re.compile(regex), {}
    for case in case_ids:
        match = pattern.search(case)
        if match is None:
            return None
        of[case] = match.group(1)
    return Patients(regex, of)


def straddling(patients: Patients, first: Sequence[str], second: Sequence[str]) -> list[str]:
    """The patients that have cases in both lists of case ids."""
    here, there = ({patients.of[case] for case in cases if case in patients.of} for cases in (first, second))
    return sorted(here & there)
