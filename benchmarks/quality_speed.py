#!/usr/bin/env python
"""Time and memory of the quality check of a whole data set, as a user runs it: one command, two workers, no --exact.

    python benchmarks/quality_speed.py --cases output/cases                     998 files out of those in the folder
    python benchmarks/quality_speed.py --cases output/cases --files 100 --report

Where the folder holds fewer files than --files, each is taken several times under other names (hard links, or copies
where the file system has none). They are reported as copies of each other, so the verdict is FAIL then; it is printed
and not judged. Prints one line of a table: CPU seconds of the command and its workers, wall-clock seconds, largest
memory of one process.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def fill(folder, sources, number):
    """`number` case files in `folder`, from `sources` in turn."""
    for i in range(number):
        source = sources[i % len(sources)]
        target = folder / f"{i:04d}_{source.name}"
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, required=True, help="folder of case files")
    parser.add_argument("--files", type=int, default=998, help="files to check (default: 998)")
    parser.add_argument("--file_workers", type=int, default=2, help="worker processes (default: 2)")
    parser.add_argument("--report", action="store_true", help="with tables and pictures (default: verdict alone)")
    args = parser.parse_args()
    sources = sorted(args.cases.resolve().glob("*.npz"))
    if not sources:
        parser.error(f"{args.cases}: no case files (*.npz); make them with prepare_data.py")
    # beside the sources, for links do not cross file systems
    with tempfile.TemporaryDirectory(dir=args.cases.resolve().parent, prefix="quality_speed_") as folder:
        (Path(folder) / "cases").mkdir()
        fill(Path(folder) / "cases", sources, args.files)
        command = [
            sys.executable,
            str(ROOT / "check_data_quality.py"),
            str(Path(folder) / "cases"),
            "--file_workers",
            str(args.file_workers),
        ]
        command += ["--report", str(Path(folder) / "report")] if args.report else []
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        clock = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime
    verdict = (done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or ["nothing printed"])[-1]
    print(
        "| files (of which different) | workers | CPU s | clock s | CPU s per file | MB of the largest process | load |"
    )
    print("|---|---|---|---|---|---|---|")
    print(
        f"| {args.files} ({min(args.files, len(sources))}) | {args.file_workers} | {cpu:.0f} | {clock:.0f} "
        f"| {cpu / args.files:.3f} | {used.ru_maxrss / 1024:.0f} | {os.getloadavg()[0]:.1f} |"
    )
    print(f"last line: {verdict[:160]}", file=sys.stderr)


if __name__ == "__main__":
    main()
