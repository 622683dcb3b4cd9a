"""The FileReports of many case files, in parallel; a process that is killed costs its own file only."""

from functools import partial
from pathlib import Path

from vecset.common.errors import describe_failure
from vecset.common.workers import map_files
from vecset.quality.case_checks import check_file
from vecset.quality.thresholds import FileReport


def check_files(paths: list[Path], workers: int, **options) -> list[FileReport]:
    """FileReports in the order of `paths`; `options` as of `check_file`. With one worker the files are checked in this
    process. With more, a file whose process is killed fails the check `readable`."""
    alone = workers == 1 or len(paths) == 1
    bar = {"desc": "quality", "unit": "file", "disable": None}
    return list(
        map_files(partial(_check, check_file, **options), paths, 0 if alone else workers, _killed, **bar).values()
    )


def _check(check, path, **options):
    """`check_file` (`check`); what fails in it, whatever it is, fails the check `readable` of this file alone."""
    try:
        return check(path, **options)
    except Exception as error:
        report = FileReport(path.name.removesuffix(".npz"), path.name)
        report.add("readable", 0, note=describe_failure(path, error, "use fewer --file_workers"))
        return report


def _killed(path):
    report = FileReport(path.name.removesuffix(".npz"), path.name)
    report.add("readable", 0, note="the process that checked it was killed (out of memory?)")
    return report
