"""Case files made from phantoms by prepare_data.py, and the checks that fail after a change of one."""

import copy

import numpy as np

from helpers import quality_mutations as mutations
from vecset.commands import make_phantoms, prepare_data
from vecset.data.case_file import write_case
from vecset.quality import case_checks as quality
from vecset.quality.population import check_population

POINTS = ["--num_surface_points", "15000", "--num_vol_points", "6000", "--num_near_points", "20000"]


def prepare(folder, *flags):
    """Case files of the label maps in folder/labels."""
    assert (
        prepare_data.main(
            [
                "--input_dir",
                str(folder / "labels"),
                "--output_dir",
                str(folder / "cases"),
                *POINTS,
                "--file_workers",
                "0",
                *flags,
            ]
        )
        == 0
    )
    return sorted((folder / "cases").glob("*.npz"))


def prepared(folder, *phantom_flags, num=1, prepare_flags=()):
    """Case files of `num` phantoms made with `phantom_flags`."""
    make_phantoms.main(["--output_dir", str(folder / "labels"), "--num", str(num), *phantom_flags])
    return prepare(folder, *prepare_flags)


def failed_after(mutation, case, folder, *options):
    """Names of the checks that `case` fails after `mutation`, a function that changes it in place."""
    case = copy.deepcopy(case)
    mutation(case, *options)
    case.meta["source_name"] = "case.nii.gz"  # it is written under that name
    frame = case.frame
    case.frame = frame or mutations.Frame(np.eye(4), (1, 1, 1), (0, 0, 0), 1)  # write_case wants one
    write_case(folder / "case.npz", case)
    if frame is None:
        with np.load(folder / "case.npz") as archive:
            members = {n: archive[n] for n in archive.files if not n.startswith("frame_")}
        np.savez(folder / "case.npz", **members)
    report = quality.check_file(folder / "case.npz")
    check_population([report])
    return {f["check"] for f in report.failed()}
