#!/usr/bin/env python
"""Whole hearts from slices: how far the four chambers are off, with slices in place and displaced, beside baselines.

    python benchmarks/slices.py --checkpoint CKPT --input HEARTS --output_dir OUT

HEARTS: unseen hearts as for reconstruct.py, case files or whole label maps that have all four chambers. Of each one the
standard views are cut out (vecset/sparse/views.py: 2ch, 4ch, short axis each 10 mm up to the mitral valve; labels of
the nearest voxel, 1.5 mm pixels) and written as one NIfTI file each to OUT/slices/HEART/SHIFT. That folder is read and
reconstructed by the way of reconstruct.py --slices folder, on the grid of the whole map, and scored against that map.

--shifts: each slice of a heart is displaced in its plane by exactly so many mm, each into a direction of its own, drawn
for heart and slice and the same for all shifts. The network and the baselines (vecset/metrics/slice_baselines.py, which
learn nothing) see the same slices. The mean surface distance of a chamber is ASSD of docs/metrics.md; a chamber that is
missed counts as there. It can be stopped at any moment: the same command goes on. OUT/rows.jsonl has a line per heart
and shift; OUT/table.md and OUT/slices.json are written anew after each heart. Progress goes to stderr.
"""

import argparse
import hashlib
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), str(ROOT / "benchmarks"), *sys.path[1:]]

import numpy as np  # noqa: E402
from completion import say  # noqa: E402
from completion_table import interval, mean_of, read_records  # noqa: E402
from folder_lock import one_at_a_time  # noqa: E402

from vecset.common.arguments import CommandParser, user_path  # noqa: E402
from vecset.common.atomic import append_text, require_writable, write_text  # noqa: E402
from vecset.common.cores import limit_threads  # noqa: E402
from vecset.common.draws import random_stream  # noqa: E402
from vecset.common.errors import InputError, describe_failure, run_command  # noqa: E402
from vecset.common.memory import keep_freed_memory  # noqa: E402
from vecset.imaging.frame import Frame  # noqa: E402
from vecset.imaging.image_file import case_name  # noqa: E402
from vecset.imaging.label_map import write_label_map  # noqa: E402
from vecset.imaging.structure_names import class_named  # noqa: E402
from vecset.metrics import slice_baselines  # noqa: E402
from vecset.metrics.overlap import counted_value, score  # noqa: E402
from vecset.sparse.views import APART_MM, CHAMBERS, PIXEL_MM, cut_view, draw_shifts, standard_views  # noqa: E402

VERSION = 1  # of the comparison: rows of another one do not count
NETWORK = "network"
METHODS = (NETWORK, *slice_baselines.NAMES)
METRICS = {"assd_mm": "mean surface distance, mm", "dice": "Dice"}


def main(argv=None):
    args = parse_arguments(argv)
    limit_threads()  # before torch is imported
    keep_freed_memory()
    require_writable(args.output_dir)
    return Run(args).all_rows()


def parse_arguments(argv):
    parser = CommandParser("slices.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--checkpoint", type=user_path, required=True, help="of a network trained with --observe slices=...")
    add("--input", type=user_path, required=True, help="unseen whole hearts, as for reconstruct.py")
    add("--data_path", type=user_path, help="folder that the files in a CSV are relative to (default: the CSV's own)")
    add("--output_dir", type=user_path, required=True, help="folder of slices, rows and table")
    add("--shifts", nargs="+", type=float, default=[0, 1, 2, 3, 4, 5, 6], metavar="MM", help="(default: 0 to 6)")
    add("--hearts", type=int, help="only the first N (default: all)")
    add("--given", help="only these classes are in the slices, as for reconstruct.py (default: all)", metavar="CLASSES")
    add("--every", type=int, default=1, help="decode and score every N-th voxel along each axis (default: 1)")
    add("--calibration", type=user_path, help="as for reconstruct.py (default: without)")
    add("--num_surface_points", type=int, help="as for reconstruct.py (default: as in training)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N")
    add("--seed", type=int, default=0, help="of points and shifts (default: 0)")
    args = parser.parse_args(argv)
    for name, least in (("hearts", 1), ("every", 1)):
        if getattr(args, name) is not None and getattr(args, name) < least:
            raise InputError(f"--{name}", f"at least {least}", getattr(args, name))
    if min(args.shifts) < 0 or not np.isfinite(args.shifts).all():
        raise InputError("--shifts", "mm, 0 or more", " ".join(f"{s:g}" for s in args.shifts))
    args.shifts = sorted(set(args.shifts))
    if args.given is not None:
        args.given = tuple(word.strip() for word in args.given.split(",") if word.strip())
    return args


class Run:
    """The rows of one command line."""

    def __init__(self, args):
        from vecset.inference.inputs import find_hearts
        from vecset.inference.model import load_model

        self.args, self.rows_file = args, args.output_dir / "rows.jsonl"
        how = {"device": args.device, "num_surface_points": args.num_surface_points, "seed": args.seed}
        self.model = load_model(args.checkpoint, decision_tuning=args.calibration, **how)
        self.names = self.model.class_names
        self.chambers = {name: class_named(name, self.names) for name in CHAMBERS}
        lacking = [name for name, c in self.chambers.items() if c is None]
        if lacking:
            raise InputError.because(args.checkpoint, f"its classes have no {', '.join(lacking)}", "give another one")
        self.entries = find_hearts(args.input, args.data_path, say=say)[: args.hearts]
        self.settings = self.settings_now()

    def settings_now(self) -> str:
        """All that figures depend on but heart and shift, as 16 hex digits."""
        content = {
            "version": VERSION,
            "checkpoint": self.model.checkpoint_sha256,
            "calibration": self.model.tuning_sha256,
            "num_surface_points": self.model.num_surface_points,
            "seed": self.args.seed,
            "every": self.args.every,
            "given": self.args.given,
            "views": [APART_MM, PIXEL_MM],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def all_rows(self) -> int:
        """Makes the rows that are not there; 1 where a heart failed, which is told in one line."""
        from vecset.inference.inputs import input_sha256

        failed = 0
        with one_at_a_time(self.args.output_dir):
            shas = {entry.case_id: input_sha256(entry) for entry in self.entries}
            done = self.done_before(shas)
            for number, entry in enumerate(self.entries, 1):
                wanted = [shift for shift in self.args.shifts if (entry.case_id, shift) not in done]
                try:
                    for record in self.records(entry, wanted):
                        record |= {"settings": self.settings, "heart_sha256": shas[entry.case_id]}
                        append_text(self.rows_file, json.dumps(record) + "\n")
                        say(f"[{number}/{len(self.entries)}] {told(record)}")
                except InputError as error:
                    say(f"error: {describe_failure(entry.path, error)}")
                    failed += 1
                self.write_table()
            print(self.write_table(), end="")
        return 1 if failed else 0

    def done_before(self, shas: dict) -> set:
        """{(heart, shift)} of the lines that are there. InputError where one is of other settings, or of another heart
        of the same name. A last line that a kill has cut is taken away."""
        records, whole = read_records(self.rows_file)
        for record in records:
            same = shas.get(record["heart"], record["heart_sha256"]) == record["heart_sha256"]
            if record["settings"] != self.settings or not same:
                what = "another checkpoint or other options" if same else f"another file named {record['heart']}"
                raise InputError.because(
                    self.rows_file, f"it has rows of {what}", "give another --output_dir, or move this file elsewhere"
                )
        if not whole:
            write_text(self.rows_file, "".join(json.dumps(record) + "\n" for record in records))
        return {(record["heart"], record["shift_mm"]) for record in records}

    # --- one heart

    def records(self, entry, shifts):
        """Yields the line of each of `shifts` (mm) of a heart."""
        from vecset.inference.inputs import load_truth

        if not shifts:
            return
        labels, affine = load_truth(entry, self.names)
        views = standard_views(labels, affine, self.names, where=entry.path)
        directions = draw_shifts(random_stream(self.args.seed, 0, entry.case_id, "shifts of slices"), len(views))
        for shift in shifts:
            start = time.process_time()
            folder = self.args.output_dir / "slices" / entry.case_id / f"{shift:g}mm"
            write_slices(folder, labels, affine, views, directions * shift, self.names)
            answers, planes = self.answers(folder, entry.case_id, labels, affine)
            yield {
                "heart": entry.case_id,
                "shift_mm": shift,
                "planes": planes,
                **self.scores(labels, affine, answers),
                "cpu_s": round(time.process_time() - start, 1),
            }

    def grid(self, labels, affine):
        """(labels, affine) of every N-th voxel."""
        n = self.args.every
        affine = np.array(affine)
        affine[:3, :3] *= n
        return np.ascontiguousarray(labels[::n, ::n, ::n]), affine

    def answers(self, folder, case_id, labels, affine):
        """({method: labels on the grid that is scored}, number of planes) of the slices in a folder."""
        from vecset.data.listed_case import SLICES, ListedCase
        from vecset.fields.heart_field import CHUNK
        from vecset.inference.heart_result import decode_heart
        from vecset.inference.settings import OutputSettings

        heart = ListedCase(case_id, folder, SLICES, files=tuple(sorted(folder.glob("*.nii.gz"))))
        case = self.model.read(heart, given=self.args.given, slices="folder")
        truth, affine = self.grid(labels, affine)
        frame = Frame(affine, truth.shape, case.frame.centre_mm, case.frame.scale)
        settings, case = OutputSettings(meshes=False, slices="folder"), replace(case, frame=frame)
        found = {NETWORK: decode_heart(self.model, settings, case_id, case, None, CHUNK, say).output.labels}
        planes = case.planes
        if self.args.given:
            seen = np.unique(case.surface_labels)
            planes = [replace(p, labels=np.where(np.isin(p.labels, seen), p.labels, 0)) for p in planes]
        return found | slice_baselines.label_maps(planes, affine, truth.shape), len(planes)

    def scores(self, labels, affine, answers) -> dict:
        """{metric: {method: {chamber: value}}}, as the rules of docs/metrics.md count."""
        truth, affine = self.grid(labels, affine)
        spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
        ids = set(self.chambers.values())
        scored = np.array([c in ids for c in range(1, len(self.names) + 1)])
        found = {metric: {} for metric in METRICS}
        for method, prediction in answers.items():
            rows = score(truth, prediction, self.names, scored, spacing_mm)
            for metric in METRICS:
                values = {name: counted_value(rows[c - 1], metric) for name, c in self.chambers.items()}
                found[metric][method] = {name: round(value, 5) for name, value in values.items()}
        return found

    # --- tables

    def write_table(self) -> str:
        """Writes table.md and slices.json; returns the text of the first."""
        mine = {entry.case_id for entry in self.entries}
        records = [
            r for r in read_records(self.rows_file)[0] if r["heart"] in mine and r["shift_mm"] in self.args.shifts
        ]
        content = summary(records)
        trained = "trained with --observe" if self.model.told_states else "not trained to infer (no --observe)"
        shown = ", ".join(self.args.given) if self.args.given else "all classes"
        lines = [
            f"`{self.args.checkpoint.name}` (SHA-256 {self.model.checkpoint_sha256[:12]}, epoch {self.model.epoch}): "
            f"{self.model.description}; {trained}; {self.model.num_surface_points} surface points. "
            f"Slices show {shown}. {len({r['heart'] for r in records})} of {len(mine)} hearts.",
            "",
            *table_lines(content),
        ]
        text = "\n".join(lines) + "\n"
        write_text(self.args.output_dir / "table.md", text)
        told_of = {"checkpoint_sha256": self.model.checkpoint_sha256, "settings": self.settings}
        write_text(self.args.output_dir / "slices.json", json.dumps({**told_of, **content}, indent=1) + "\n")
        return text


def write_slices(folder, labels, affine, views, shifts_mm, class_names):
    """Writes each view as a NIfTI file of its name; other label maps in the folder, of an earlier run, go."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {view.name for view in views}
    for path in folder.glob("*.nii.gz"):
        if case_name(path) not in names:
            path.unlink()
    for view, shift_mm in zip(views, shifts_mm):
        write_label_map(folder / f"{view.name}.nii.gz", *cut_view(labels, affine, view, shift_mm=shift_mm), class_names)


def told(record: dict) -> str:
    """One line on a record, for the terminal."""
    means = ", ".join(
        f"{method.replace('_', ' ')} {np.mean(list(values.values())):.2f} mm"
        for method, values in record["assd_mm"].items()
    )
    return f"{record['heart']}, shift {record['shift_mm']:g} mm: {means} ({record['cpu_s']:.1f} s of CPU)"


def summary(records: list[dict]) -> dict:
    """{"shifts": [{shift_mm, hearts, planes (mean number), metric: {method: {mean, interval, chamber: mean}}}, ...],
    "steady": {method: whether its mean surface distance grows from each shift to the next}, over the hearts that all
    shifts have; None for fewer than two shifts}. interval: 95 %, hearts drawn with replacement; None for one heart."""
    shifts = sorted({record["shift_mm"] for record in records})
    rows = []
    for shift in shifts:
        mine = [record for record in records if record["shift_mm"] == shift]
        row = {"shift_mm": shift, "hearts": len(mine), "planes": float(np.mean([r["planes"] for r in mine]))}
        for metric in METRICS:
            row[metric] = {}
            for method in METHODS:
                table = np.array([[r[metric][method][name] for name in CHAMBERS] for r in mine], float)
                row[metric][method] = {
                    "mean": float(mean_of(table)),
                    "interval": list(interval(table)) if len(mine) > 1 else None,
                    **dict(zip(CHAMBERS, table.mean(0).tolist())),
                }
        rows.append(row)
    hearts = set.intersection(*({r["heart"] for r in records if r["shift_mm"] == s} for s in shifts)) if shifts else ()
    steady = dict.fromkeys(METHODS)
    for method in METHODS if len(shifts) > 1 and hearts else ():
        means = [
            np.mean(
                [list(r["assd_mm"][method].values()) for r in records if r["shift_mm"] == s and r["heart"] in hearts]
            )
            for s in shifts
        ]
        steady[method] = bool((np.diff(means) > 0).all())
    return {"shifts": rows, "steady": steady}


def table_lines(content: dict) -> list[str]:
    """The tables of a `summary` in Markdown."""
    lines = []
    for metric, title in METRICS.items():
        digits = 2 if metric.endswith("_mm") else 3
        heads = [f"{m.replace('_', ' ')}{' [95 %]' if m == NETWORK else ''}" for m in METHODS]
        lines += [f"**{title}**, means of {', '.join(CHAMBERS)}; last columns: the network's, each.", ""]
        lines += ["| shift, mm | hearts | planes | " + " | ".join([*heads, *CHAMBERS]) + " |"]
        lines += ["|---" * (3 + len(METHODS) + len(CHAMBERS)) + "|"]
        for row in content["shifts"]:
            cells = [f"{row['shift_mm']:g}", str(row["hearts"]), f"{row['planes']:.1f}"]
            for method in METHODS:
                found = row[metric][method]
                ends = found["interval"]
                around = f" [{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]" if ends and method == NETWORK else ""
                cells.append(f"{found['mean']:.{digits}f}{around}")
            cells += [f"{row[metric][NETWORK][name]:.{digits}f}" for name in CHAMBERS]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    told_of = {True: "yes", False: "no", None: "-"}
    words = ", ".join(f"{method.replace('_', ' ')} {told_of[grows]}" for method, grows in content["steady"].items())
    return [*lines, f"The distance grows from each shift to the next: {words}."]


if __name__ == "__main__":
    sys.exit(run_command(main))
