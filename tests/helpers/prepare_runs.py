"""prepare_data.py on label maps of two half balls: the maps, the run, and its processes."""

import os
import signal
import sys
from pathlib import Path

import numpy as np

from vecset.commands import prepare_data
from vecset.common.errors import run_command
from vecset.imaging.label_map import write_label_map

SMALL = ["--num_surface_points", "300", "--num_vol_points", "300", "--num_near_points", "300", "--classes", "3"]


def make_maps(folder, names, seed=0):
    folder.mkdir(exist_ok=True)
    grid = np.indices((20, 22, 24)).transpose(1, 2, 3, 0)
    for n, name in enumerate(names):
        labels = (np.linalg.norm(grid - [10, 11, 12], axis=-1) < 6 + 0.3 * (n + seed)).astype(np.uint8)
        labels[:, :, 12:] *= 2
        write_label_map(folder / name, labels, np.diag([1.0, 1.2, 0.9, 1]))
    return folder


def run(source, target, *more, workers=0):
    return run_command(
        prepare_data.main,
        ["--input_dir", str(source), "--output_dir", str(target), *SMALL, "--file_workers", str(workers), *more],
    )


def contents(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


class Killer:
    """A job whose process is killed on one file, as the system kills for want of memory."""

    def __call__(self, path):
        if "2" in path.name:
            os.kill(os.getpid(), signal.SIGKILL)
        return "made", []


def command(repository, source, out, workers, *before):
    return [
        *before,
        sys.executable,
        str(repository / "prepare_data.py"),
        "--input_dir",
        str(source),
        "--output_dir",
        str(out),
        *SMALL,
        "--file_workers",
        str(workers),
    ]


def children(pid):
    """Processes whose parent is `pid` and that run this package's workers."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            text = (process / "stat").read_text()
            words = (process / "cmdline").read_bytes()
        except OSError:  # gone meanwhile
            continue
        if int(text.rsplit(")", 1)[1].split()[1]) == pid and b"spawn_main" in words:
            found.append(int(process.name))
    return found
