"""Shards of a folder of label maps for a job array: which files a task prepares, and which are missing in the end.

    python -m vecset.cluster.shards --input_dir LABELS --output_dir CASES --tasks 50 --shard 3
    python -m vecset.cluster.shards --input_dir LABELS --output_dir CASES --tasks 50 --summary --logs L --again SCRIPT

The first prints the --start_idx and --end_idx of prepare_data.py, the second what is missing. run_data_sbatch.sh runs
this module as a file.
"""

import argparse
import re
import shlex
import sys
from pathlib import Path

if not __package__:  # run as a file: its folder gives way to the repository
    sys.path[:] = [str(Path(__file__).resolve().parents[2])] + [
        p for p in sys.path if Path(p).resolve() != Path(__file__).resolve().parent
    ]

from vecset.common.arguments import CommandParser, user_path
from vecset.common.errors import run_command
from vecset.data.label_folder import Selection, relative_name
from vecset.data.splits import check_patients
from vecset.data.structure_files import find_sources
from vecset.imaging.image_file import case_id

NOT_REACHED = "the task did not get to it (killed, out of time, or never started)"


def shard(count: int, tasks: int, task: int) -> tuple[int, int]:
    """(start, end) of shard `task` of `tasks` over `count` files. Shards differ by at most one file."""
    return count * task // tasks, count * (task + 1) // tasks


def ranges(numbers: list[int]) -> str:
    """[0, 1, 2, 7] -> '0-2,7', as sbatch --array takes it."""
    text, numbers = [], sorted(numbers)
    while numbers:
        end = next((i for i in range(1, len(numbers)) if numbers[i] != numbers[0] + i), len(numbers))
        text.append(f"{numbers[0]}-{numbers[end - 1]}" if end > 1 else str(numbers[0]))
        numbers = numbers[end:]
    return ",".join(text)


def reason(name: str, log_text: str) -> str:
    """The error that a task's log has for the file, or NOT_REACHED."""
    lines = log_text.replace("\r", "\n").splitlines()
    pattern = rf"error:.*(?<![\w.-]){re.escape(name)}(?![\w.-])"  # not scan1 in a line about scan10
    found = [line[line.index("error:") :].strip() for line in lines if re.search(pattern, line)]
    return found[-1] if found else NOT_REACHED


def excluded(name: str, log_text: str) -> bool:
    """Whether a task's log says that the heart was excluded on request (prepare_data.py --exclude_border_cut)."""
    return re.search(rf"excluded: {re.escape(name)}: ", log_text) is not None


def summary_lines(
    names: list[str], output_dir: Path, tasks: int, logs: Path, script: Path, input_dir: Path
) -> tuple[list[str], int]:
    """(lines, number of missing case files): what is missing and why, and the command that submits it again.

    names: of all label maps, relative to `input_dir`; script: the batch script of the command, whose further options
    are those that the tasks left in LOGS/options."""
    missing, redo, left_out = [], set(), 0
    for task in range(tasks):
        start, end = shard(len(names), tasks, task)
        absent = [name for name in names[start:end] if not (Path(output_dir) / f"{case_id(name)}.npz").is_file()]
        log = Path(logs) / f"task-{task}.log"
        text = log.read_text(encoding="utf-8", errors="replace") if absent and log.is_file() else ""
        left_out += len(absent)
        absent = [name for name in absent if not excluded(name, text)]
        left_out -= len(absent)
        missing += [f"  {name} (shard {task}): {reason(name, text)}" for name in absent]
        redo |= {task} if absent else set()
    lines = [
        f"{len(names) - len(missing) - left_out} of {len(names)} case files are there"
        + (f", {left_out} excluded (--exclude_border_cut)" if left_out else "")
    ]
    if missing:
        kept = Path(logs) / "options"
        options = kept.read_text(encoding="utf-8").strip() if kept.is_file() else ""
        lines += [
            "missing:",
            *missing,
            "to do just these shards again (add your account, partition and the like):",
            f"  sbatch --array={ranges(redo)} {shlex.quote(str(script))} --tasks {tasks} "
            f"--input_dir {shlex.quote(str(input_dir))} --output_dir {shlex.quote(str(output_dir))} {options}",
        ]
    return lines, len(missing)


def get_parser() -> argparse.ArgumentParser:
    parser = CommandParser("shards.py", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--input_dir", required=True, type=user_path, help="folder of label maps")
    parser.add_argument("--output_dir", required=True, type=user_path, help="folder of case files")
    parser.add_argument("--tasks", required=True, type=int, help="number of shards")
    wanted = parser.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--shard", type=int, help="print start and end (exclusive) of this shard, counted from 0")
    wanted.add_argument("--share", dest="shard", type=int, help=argparse.SUPPRESS)  # its old name
    wanted.add_argument("--summary", action="store_true", help="print what is missing; exit code 1 if anything is")
    parser.add_argument("--logs", type=user_path, help="with --summary: folder of task-N.log, which say why")
    parser.add_argument("--again", type=user_path, help="with --summary: the script that the printed command submits")
    parser.add_argument(
        "--patients",
        nargs="?",
        const="",
        metavar="R",
        help="with --shard: say on stderr where names look like several scans of a patient; with R, the --group_regex "
        "of create_csv.py: check that it finds the patients",
    )
    parser.add_argument(
        "--prepare",
        nargs=argparse.REMAINDER,
        default=[],
        help="comes last: options of prepare_data.py; --structures, --recursive and --pattern decide what a heart is",
    )
    return parser


def selected(words: list[str], logs: Path | None = None) -> Selection:
    """Which files are label maps, by `words`, options of prepare_data.py, or by those that the tasks left in
    LOGS/options."""
    from vecset.commands.prepare_data import get_parser as of_prepare
    from vecset.commands.prepare_data import selection_of

    kept = logs / "options" if logs else None
    if not words and kept and kept.is_file():
        words = shlex.split(kept.read_text(encoding="utf-8"))
    given, _ = of_prepare().parse_known_args(["--input_dir", "labels", "--output_dir", "cases", *words])
    return selection_of(given)


def main(argv: list[str] | None = None) -> int:
    parser = get_parser()
    args = parser.parse_args(argv)
    if args.summary and not (args.logs and args.again):
        parser.error("--summary needs --logs and --again")
    selection = selected(args.prepare, args.logs)
    names = [relative_name(path, args.input_dir) for path in find_sources(args.input_dir, selection).paths]
    if args.summary:
        lines, missing = summary_lines(names, args.output_dir, args.tasks, args.logs, args.again, args.input_dir)
        print("\n".join(lines))
        return 1 if missing else 0
    if args.patients is not None:
        for line in check_patients([case_id(name) for name in names], args.patients or None):
            print(f"note: {line}", file=sys.stderr)
    print(*shard(len(names), args.tasks, args.shard))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
