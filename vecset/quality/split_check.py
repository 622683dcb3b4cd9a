"""Whether a patient is on both sides of the split that lies beside the case files: train.csv and val.csv."""

from pathlib import Path

from vecset.common.user_files import read_json, read_rows
from vecset.data.patients import find_patients
from vecset.data.splits import SIDECAR
from vecset.quality.thresholds import FileReport

NAMED = 5  # cases of the other side that a note names


def check_split(reports: list[FileReport], folder: Path) -> None:
    """Adds `split_group` (by the column `group` of the CSVs) and `split_patient` (by the names of the cases, where each
    group is a single case) to the reports of the cases in `folder`/train.csv and val.csv. Nothing where one of them is
    not there, or where a model is to be trained on the very hearts that it is tried on (--overfit).

    Raises InputError where a CSV cannot be read.
    """
    csvs = [Path(folder) / f"{name}.csv" for name in ("train", "val")]
    if not all(path.is_file() for path in csvs):
        return
    sets = [{row["case_id"]: row.get("group", "") for row in _rows(path)} for path in csvs]
    sidecar = Path(folder) / SIDECAR
    record = read_json(sidecar, "the record of a split") if sidecar.is_file() else {}
    if set(sets[0]) == set(sets[1]) or (isinstance(record, dict) and record.get("overfit")):
        return
    groups = {**sets[0], **sets[1]}
    single = all(case.endswith(group.rpartition("/")[2]) for case, group in groups.items())  # DATASET/CASE
    found = find_patients(sorted(groups)) if single else None
    by_case = {report.case_id: report for report in reports}
    for here, there, name in ((*sets, "val.csv"), (*sets[::-1], "train.csv")):
        for case in here.keys() & by_case.keys():
            report = by_case[case]
            same = sorted(other for other, group in there.items() if group and group == here[case])
            report.add("split_group", len(same), note=_note(name, same))
            if found:
                alike = sorted(other for other in there if found.of[other] == found.of[case])
                to_do = f"; create_csv.py --group_regex '{found.regex}' keeps patients whole" if alike else ""
                report.add("split_patient", len(alike), note=_note(name, alike) + to_do)


def _rows(path):
    return read_rows(path, ("case_id",), "a CSV of cases", "make it with create_csv.py")


def _note(name, cases):
    more = f" and {len(cases) - NAMED} more" if len(cases) > NAMED else ""
    return f"in {name}: {', '.join(cases[:NAMED])}{more}" if cases else ""
