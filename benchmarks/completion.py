#!/usr/bin/env python
"""What a network infers of what it does not see, beside baselines that see the same: the whole table, row by row.

    python benchmarks/completion.py --checkpoint CKPT --output_dir OUT    synthetic hearts: 200 to learn, 40 unseen
    python benchmarks/completion.py --checkpoint CKPT --output_dir OUT --train_csv train.csv --val_csv val.csv
    python benchmarks/completion.py --checkpoint CKPT --output_dir OUT --input MAPS --annotated 1,2,3 --no_baselines
    python benchmarks/completion.py --checkpoint CKPT --output_dir OUT ... --picture hearts.png    eight of the hearts

Rows: nothing left out; each structure alone; the groups of vecset/items/observation.py; what lies beyond a plane with
10, 20 or 30 % of the heart. Each heart of each row is a line of OUT/rows.jsonl; OUT/table.md is written anew after each
row. It can be stopped at any moment: the same command goes on. Without lists the hearts are made in OUT: a network that
is to be compared with the baselines trains on OUT/cases/train.csv, as they do. The baselines' figures are lines of
OUT/baselines.jsonl. They are the same for every network, so --baselines_only makes them while a network still trains,
and another network in the same folder takes them over once rows.jsonl is moved away. Progress goes to stderr.
docs/completion.md says what the columns are.
"""

import argparse
import functools
import hashlib
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), str(ROOT / "benchmarks"), *sys.path[1:]]

from completion_table import read_records, table_of  # noqa: E402
from folder_lock import one_at_a_time  # noqa: E402

from vecset.common.arguments import CommandParser, user_path  # noqa: E402
from vecset.common.atomic import append_text, require_writable, write_text  # noqa: E402
from vecset.common.cores import limit_threads  # noqa: E402
from vecset.common.errors import InputError, run_command  # noqa: E402
from vecset.common.memory import keep_freed_memory  # noqa: E402

VERSION = 1  # of the comparison: rows of another one do not count


def main(argv=None):
    args = parse_arguments(argv)
    limit_threads()  # before torch is imported
    keep_freed_memory()
    require_writable(args.output_dir)
    run = Run(args)
    if args.picture:
        return run.picture(args.picture)
    if args.baselines_only:
        run.all_baselines()
    else:
        run.all_rows()
    return 0


def parse_arguments(argv):
    parser = CommandParser("completion.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--checkpoint", type=user_path, required=True, help="of a network trained with --observe")
    add("--plain_checkpoint", type=user_path, help="of the same training without --observe: scored where all is given")
    add("--output_dir", type=user_path, required=True, help="folder of rows and table, and of hearts that are made")
    add("--rows", nargs="+", help="names of rows, or each, groups, cuts (default: all)")
    add("--hearts", type=int, help="only the first N of the unseen hearts (default: all)")
    add("--every", type=int, default=1, help="decode and score every N-th voxel along each axis (default: 1)")
    add("--no_baselines", action="store_true", help="the network alone")
    add("--baselines_only", action="store_true", help="only the baselines' lines; of --checkpoint only classes count")
    add("--calibration", type=user_path, help="as for reconstruct.py (default: without)")
    add("--num_surface_points", type=int, help="as for reconstruct.py (default: as in training)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N")
    add("--seed", type=int, default=0, help="of synthetic hearts, points and planes (default: 0)")
    add("--picture", type=user_path, metavar="FILE", help="only a picture: eight hearts as seen, inferred, in truth")
    own = parser.add_argument_group("hearts of your own")
    own.add_argument("--train_csv", type=user_path, help="the training hearts, for the baselines")
    own.add_argument("--val_csv", type=user_path, help="unseen hearts: a CSV of create_csv.py")
    own.add_argument("--data_path", type=user_path, help="folder of the files in the CSVs (default: a CSV's own)")
    own.add_argument("--input", type=user_path, help="unseen hearts, as for reconstruct.py (in place of --val_csv)")
    own.add_argument("--annotated", help="as for reconstruct.py, for label maps of --input")
    made = parser.add_argument_group("synthetic hearts")
    made.add_argument("--num_train", type=int, default=200, help="that the baselines learn from (default: 200)")
    made.add_argument("--num_val", type=int, default=40, help="that are scored (default: 40)")
    made.add_argument("--size", type=int, default=128, help="voxels along an axis (default: 128)")
    args = parser.parse_args(argv)
    for name, least in (("hearts", 1), ("every", 1), ("num_train", 3), ("num_val", 1), ("size", 16)):
        if getattr(args, name) is not None and getattr(args, name) < least:
            raise InputError(f"--{name}", f"at least {least}", getattr(args, name))
    if args.input and args.val_csv:
        raise InputError.because("--input", "the unseen hearts are those of --val_csv", "give one of them")
    own_hearts = args.input or args.val_csv
    if args.train_csv and not own_hearts:
        raise InputError.because("--train_csv", "no unseen hearts of your own", "give --val_csv or --input")
    if own_hearts and not (args.train_csv or args.no_baselines):
        raise InputError.because("", "the baselines have no training hearts", "give --train_csv, or --no_baselines")
    if args.baselines_only and (args.no_baselines or args.picture):
        raise InputError.because(
            "--baselines_only", "it makes the baselines' lines alone", "leave the other option out"
        )
    if args.annotated:
        args.annotated = tuple(word.strip() for word in args.annotated.split(",") if word.strip())
    return args


def make_hearts(folder: Path, num_train: int, num_val: int, size: int, seed: int) -> tuple[Path, Path]:
    """(train.csv, val.csv) of synthetic hearts in `folder`, made or found: each command skips what is done."""
    from vecset.commands import create_csv, make_phantoms, prepare_data

    num, labels, cases = num_train + num_val, folder / "phantoms", folder / "cases"
    commands = (
        (make_phantoms, ["--output_dir", labels, "--num", num, "--size", size, "--seed", seed]),
        (prepare_data, ["--input_dir", labels, "--output_dir", cases]),
        (create_csv, ["--data_dir", cases, "--output_dir", cases, "--val_ratio", num_val / num, "--seed", 0]),
    )
    for command, words in commands:
        code = command.main([str(word) for word in words])
        if code:
            raise InputError.because(folder, "the synthetic hearts could not be made", "see the messages above")
    return cases / "train.csv", cases / "val.csv"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Run:
    """The rows of one command line."""

    def __init__(self, args):
        from baseline_answers import BaselineAnswers

        from vecset.data.listed_case import check_disjoint, read_listed
        from vecset.inference.inputs import find_hearts
        from vecset.inference.model import load_model
        from vecset.report.completion import UnseenHeart, choices

        self.args, self.rows_file = args, args.output_dir / "rows.jsonl"
        self.baselines_file = args.output_dir / "baselines.jsonl"
        how = {"device": args.device, "num_surface_points": args.num_surface_points, "seed": args.seed}
        self.model = load_model(args.checkpoint, decision_tuning=args.calibration, **how)
        self.plain = load_model(args.plain_checkpoint, **how) if args.plain_checkpoint else None
        if self.plain and self.plain.class_names != self.model.class_names:
            raise InputError.because(args.plain_checkpoint, "other classes than those of --checkpoint", "give its twin")
        train_csv, source, data_path = args.train_csv, args.input or args.val_csv, args.data_path
        if not source:
            train_csv, source = make_hearts(args.output_dir, args.num_train, args.num_val, args.size, args.seed)
        entries = find_hearts(source, data_path, say=say)
        self.training = []
        if train_csv and not args.no_baselines:
            self.training = read_listed(train_csv, data_path or train_csv.parent)
            check_disjoint(self.training, entries, source)
        self.hearts = [
            UnseenHeart(self.model, entry, args.annotated, args.every, args.seed) for entry in entries[: args.hearts]
        ]
        annotated = self.hearts[0].original.annotated
        self.choices = self.chosen(choices(self.model.class_names, annotated))
        self.baselines = BaselineAnswers(
            [entry.path for entry in self.training],
            len(self.model.class_names),
            lambda: say(f"reads {len(self.training)} training hearts for the baselines"),
        )
        self.settings = self.settings_now()

    def chosen(self, every):
        """Those of the choices that --rows names, in their order."""
        if not self.args.rows:
            return every
        sets = {
            "each": [choice.name for choice in every if len(choice.hidden) == 1],
            "groups": [choice.name for choice in every if len(choice.hidden) > 1],
            "cuts": [choice.name for choice in every if choice.cut],
        }
        names = {choice.name for choice in every}
        for word in self.args.rows:
            if word not in names and not sets.get(word):
                raise InputError("--rows", f"some of {', '.join([*sets, *(c.name for c in every)])}", word)
        wanted = {name for word in self.args.rows for name in sets.get(word, [word])}
        return [choice for choice in every if choice.name in wanted]

    def settings_now(self, network: bool = True) -> str:
        """All that figures depend on but the heart itself, as 16 hex digits; network: of the network's, else of the
        baselines'."""
        from vecset.imaging.label_map import file_sha256

        content = {
            "version": VERSION,
            "seed": self.args.seed,
            "every": self.args.every,
            "annotated": self.args.annotated,
            "training": sorted(file_sha256(entry.path) for entry in self.training),
        }
        if network:
            content |= {
                "checkpoint": self.model.checkpoint_sha256,
                "plain": self.plain and self.plain.checkpoint_sha256,
                "calibration": self.model.tuning_sha256,
                "num_surface_points": self.model.num_surface_points,
            }
        else:
            content["classes"] = list(self.model.class_names)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    # --- rows

    def all_rows(self):
        with one_at_a_time(self.args.output_dir):
            done = self.records_before(self.rows_file, self.settings)
            for number, left_out, heart in self.left_to_do(done):
                started = time.process_time()
                record = self.keep(self.rows_file, self.settings, left_out, heart, self.record(left_out, heart))
                seconds = time.process_time() - started
                say(f"{self.place(number, left_out, heart)}: {told(record)} ({seconds:.1f} s of CPU)")
                if heart is self.hearts[-1]:
                    self.write_table()
            print(self.write_table())

    def all_baselines(self):
        """The lines of the baselines alone."""
        if not self.training:
            raise InputError.because("--baselines_only", "there are no training hearts", "give --train_csv")
        with one_at_a_time(self.args.output_dir):
            for number, left_out, heart in self.left_to_do(self.baselines_before):
                if not left_out.whole and not heart.lacks(left_out):
                    started = time.process_time()
                    found = self.baseline_figures(left_out, heart)
                    seconds = time.process_time() - started
                    words = told({"hidden": [self.model.class_names[c - 1] for c in left_out.hidden], **found})
                    say(f"{self.place(number, left_out, heart)}: {words} ({seconds:.1f} s of CPU)")

    def left_to_do(self, done):
        """(number of the row from 1, what is left out, heart) of all that is not in `done`, row by row."""
        for number, left_out in enumerate(self.choices, 1):
            for heart in self.hearts:
                if (left_out.name, heart.entry.case_id) not in done:
                    yield number, left_out, heart

    def place(self, number, left_out, heart) -> str:
        return f"[{number}/{len(self.choices)}] {left_out.name}, {heart.entry.case_id}"

    @functools.cached_property
    def hearts_sha256(self) -> dict[str, str]:
        from vecset.inference.inputs import input_sha256

        return {heart.entry.case_id: input_sha256(heart.entry) for heart in self.hearts}

    @functools.cached_property
    def baseline_settings(self) -> str:
        return self.settings_now(network=False)

    @functools.cached_property
    def baselines_before(self) -> dict:
        """The lines of the baselines, to which `baseline_figures` adds."""
        return self.records_before(self.baselines_file, self.baseline_settings)

    def keep(self, path, settings, left_out, heart, record) -> dict:
        """Adds a line to `path`; returns it."""
        case_id = heart.entry.case_id
        place = {"row": left_out.name, "heart": case_id}
        record = {**place, **record, "settings": settings, "heart_sha256": self.hearts_sha256[case_id]}
        append_text(path, json.dumps(record) + "\n")
        return record

    def records_before(self, path: Path, settings: str) -> dict:
        """{(row, heart): line} of the lines that are there. InputError where one is of other settings, or of another
        heart of the same name. A last line that a kill has cut is taken away."""
        records, whole = read_records(path)
        for record in records:
            if record["settings"] != settings:
                raise InputError.because(
                    path,
                    "it has rows of another checkpoint, other training hearts or other options",
                    "give another --output_dir, or move this file elsewhere",
                )
            if self.hearts_sha256.get(record["heart"], record["heart_sha256"]) != record["heart_sha256"]:
                raise InputError.because(
                    path,
                    f"its rows of {record['heart']} are of another file of this name",
                    "give another --output_dir, or move this file elsewhere",
                )
        if not whole:
            write_text(path, "".join(json.dumps(record) + "\n" for record in records))
        return {(record["row"], record["heart"]): record for record in records}

    def record(self, left_out, heart) -> dict:
        """The line of one heart in one row."""
        from vecset.report.completion import in_whole_frame, infer, pooled_dice, with_given

        names, case_id = self.model.class_names, heart.entry.case_id
        record = {"hidden": [names[c - 1] for c in left_out.hidden]}
        reason = heart.lacks(left_out)
        if reason:
            return {**record, "skipped": reason}
        case, whole = heart.case(left_out), heart.whole
        truth, given = whole.truth_labels(), heart.given(left_out)
        record["given"] = [names[c - 1] for c in given]
        region = heart.beyond(left_out) if left_out.cut else None
        answers = {"network": infer(self.model, case, case_id, say=say)}
        if not left_out.whole:
            answers["network_whole_frame"] = infer(self.model, in_whole_frame(case), case_id, say=say)
        elif self.plain:
            answers["plain"] = infer(self.plain, case, case_id, say=say)
        if left_out.hidden:
            hidden = left_out.hidden
            answers |= {f"{name}_pasted": with_given(a, truth, given, hidden) for name, a in answers.items()}
        record |= self.figures(answers, left_out, whole, region)
        if not left_out.whole and self.training:
            for key, figures in self.baseline_figures(left_out, heart).items():
                record[key] |= figures
        if left_out.cut:  # of what is seen, on this side
            record["seen"] = pooled_dice(whole, answers["network"], ~region)
        return record

    def figures(self, answers, left_out, whole, region) -> dict:
        """dice {name: {class name: Dice}} of label maps {name: labels}; pooled {name: Dice} where a plane cuts."""
        from vecset.report.completion import dice_by_name, pooled_dice

        found = {"dice": {}, "pooled": {}}
        for name, labels in answers.items():
            hidden = left_out.hidden if name.endswith("_pasted") else None
            found["dice"][name] = dice_by_name(whole, labels, region, hidden)
            if left_out.cut:
                found["pooled"][name] = pooled_dice(whole, labels, region)
        return found

    def baseline_figures(self, left_out, heart) -> dict:
        """`figures` of the baselines: those of an earlier run, or made and kept."""
        place = left_out.name, heart.entry.case_id
        if place not in self.baselines_before:
            answers = self.baselines.labels(heart, left_out)
            region = heart.beyond(left_out) if left_out.cut else None
            found = self.figures(answers, left_out, heart.whole, region)
            self.baselines_before[place] = self.keep(
                self.baselines_file, self.baseline_settings, left_out, heart, found
            )
        return {key: self.baselines_before[place][key] for key in ("dice", "pooled")}

    def write_table(self) -> str:
        """Writes table.md; returns its text."""
        mine = {heart.entry.case_id for heart in self.hearts}
        records = [r for r in read_records(self.rows_file)[0] if r["heart"] in mine]
        grid = " x ".join(map(str, self.hearts[0].whole.frame.shape))
        trained = "trained with --observe" if self.model.told_states else "not trained to infer (no --observe)"
        lines = [
            f"`{self.args.checkpoint.name}` (SHA-256 {self.model.checkpoint_sha256[:12]}, epoch {self.model.epoch}): "
            f"{self.model.description}; {trained}; {self.model.num_surface_points} surface points. "
            f"{len(self.hearts)} unseen hearts on {grid} voxels, "
            + (f"{len(self.training)} training hearts for the baselines." if self.training else "no baselines."),
            "",
            *table_of(records, [choice.name for choice in self.choices], self.model.class_names),
        ]
        text = "\n".join(lines) + "\n"
        write_text(self.args.output_dir / "table.md", text)
        return text

    # --- picture

    def picture(self, path: Path) -> int:
        """Draws up to eight hearts, each with another part left out."""
        from vecset.report.completion_picture import write_examples

        shown = write_examples(path, self.model, self.hearts)
        if not shown:
            raise InputError.because("--picture", "no heart has what it takes", "give more hearts")
        print(f"written: {path} ({', '.join(f'{case_id} without {name}' for name, case_id in shown)})")
        return 0


def told(record: dict) -> str:
    """One line on a record, for the terminal."""
    if "skipped" in record:
        return f"left out, {record['skipped']}"
    if record["pooled"]:
        return ", ".join(f"{name} {value:.3f}" for name, value in record["pooled"].items() if value is not None)
    parts = []
    for name, dice in record["dice"].items():
        values = [d for c, d in dice.items() if d is not None and (not record["hidden"] or c in record["hidden"])]
        if values and "pasted" not in name:
            parts.append(f"{name.replace('_', ' ')} {sum(values) / len(values):.3f}")
    return ", ".join(parts)


if __name__ == "__main__":
    sys.exit(run_command(main))
