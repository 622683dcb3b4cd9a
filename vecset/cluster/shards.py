"""Shares of a folder of label maps for a job array: which one a task does, and what is missing in the end.

The list is the one that prepare_data.py counts with --start_idx / --end_idx. Run as a file by run_data_sbatch.sh.
"""

import argparse
import re
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:] = [str(ROOT)] + [p for p in sys.path if p not in (str(ROOT), str(Path(__file__).resolve().parent))]

from vecset.common.errors import run_command  # noqa: E402
from vecset.imaging.label_map import case_name, find_label_maps  # noqa: E402


def share(count, tasks, task):
    """(start, end) of share `task` of `tasks` over `count` files; shares differ by at most one file."""
    return count * task // tasks, count * (task + 1) // tasks


def ranges(numbers):
    """[0, 1, 2, 7] -> '0-2,7', as sbatch --array takes it."""
    text, numbers = [], sorted(numbers)
    while numbers:
        end = next((i for i in range(1, len(numbers)) if numbers[i] != numbers[0] + i), len(numbers))
        text.append(f"{numbers[0]}-{numbers[end - 1]}" if end > 1 else str(numbers[0]))
        numbers = numbers[end:]
    return ",".join(text)


def reason(name, log_text):
    """The error that a task's log has for the file, or what its absence means."""
    lines = log_text.replace("\r", "\n").splitlines()
    found = [line[line.index("error:") :].strip() for line in lines if re.search(rf"error:.*{re.escape(name)}", line)]
    return found[-1] if found else "the task did not come to it (killed, out of time, or never started)"


def excluded(name, log_text):
    """Whether a task's log says that the heart was left out on request (prepare_data.py --exclude_border_cut)."""
    return re.search(rf"excluded: {re.escape(name)}: ", log_text) is not None


def summary_lines(names, output_dir, tasks, logs, again):
    """(lines, number of missing case files): what is missing and why, and the command that submits it again.

    `again` = (script, input_dir): of the command; the further options are those that the tasks left in LOGS/options."""
    missing, redo, left_out = [], set(), 0
    for task in range(tasks):
        start, end = share(len(names), tasks, task)
        absent = [name for name in names[start:end] if not (Path(output_dir) / f"{case_name(name)}.npz").is_file()]
        log = Path(logs) / f"task-{task}.log"
        text = log.read_text(encoding="utf-8", errors="replace") if absent and log.is_file() else ""
        left_out += len(absent)
        absent = [name for name in absent if not excluded(name, text)]
        left_out -= len(absent)
        missing += [f"  {name} (share {task}): {reason(name, text)}" for name in absent]
        redo |= {task} if absent else set()
    lines = [
        f"{len(names) - len(missing) - left_out} of {len(names)} case files are there"
        + (f", {left_out} left out on request (--exclude_border_cut)" if left_out else "")
    ]
    if missing:
        script, input_dir = again
        kept = Path(logs) / "options"
        options = kept.read_text(encoding="utf-8").strip() if kept.is_file() else ""
        lines += [
            "missing:",
            *missing,
            "to do just these shares again (add your account, partition and the like):",
            f"  sbatch --array={ranges(redo)} {shlex.quote(str(script))} --tasks {tasks} "
            f"--input_dir {shlex.quote(str(input_dir))} --output_dir {shlex.quote(str(output_dir))} {options}",
        ]
    return lines, len(missing)


def main(argv=None):
    parser = argparse.ArgumentParser("shares.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("--input_dir", required=True, type=Path, help="folder of label maps")
    parser.add_argument("--output_dir", required=True, type=Path, help="folder of case files")
    parser.add_argument("--tasks", required=True, type=int, help="number of shares")
    parser.add_argument("--share", type=int, help="print start and end (exclusive) of this share, counted from 0")
    parser.add_argument("--summary", action="store_true", help="print what is missing; exit code 1 if anything is")
    parser.add_argument("--logs", type=Path, help="folder with task-N.log, for the reasons")
    parser.add_argument("--again", type=Path, help="the script that the printed command submits")
    args = parser.parse_args(argv)
    names = [path.name for path in find_label_maps(args.input_dir)]
    if args.summary:
        lines, missing = summary_lines(names, args.output_dir, args.tasks, args.logs, (args.again, args.input_dir))
        print("\n".join(lines))
        return 1 if missing else 0
    print(*share(len(names), args.tasks, args.share))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
