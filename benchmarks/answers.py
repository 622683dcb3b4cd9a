#!/usr/bin/env python
"""How far several answers to what is not seen can be trusted: intervals of volumes, and the energy score.

    python benchmarks/answers.py --checkpoint CKPT --output_dir OUT          synthetic hearts: 200 to learn, 200 unseen
    python benchmarks/answers.py --checkpoint CKPT --output_dir OUT --train_csv train.csv --val_csv val.csv

Of each unseen heart one structure or group is left out (the next of the list for the next heart), and the network of
main_ae.py --answer_noise gives N answers, as reconstruct.py --given ... --samples N does. Counted are, over all hearts
and structures left out: in how many the truth's volume lies in the 90 % interval, and the energy score of the label
maps of what is left out, mean d(answer, truth) - mean d(answer, another answer) / 2, in which d is the root of the
volume where two maps differ (Gneiting and Raftery, J. Am. Stat. Assoc. 2007: a proper score, as d is a distance between
vectors); of one answer it is its distance. The posterior shape model's draws and its one answer stand beside
(vecset/metrics/posterior_shape.py), which sees what the network sees. What is given is given: where the truth has a
given structure, nothing of what is left out counts, of network and baseline alike. Intervals in brackets: 95 %,
bootstrap over hearts. Each heart is a line of OUT/answers.jsonl and one of OUT/baselines.jsonl; the same command goes
on. The baseline's lines are the same for every network: --baselines_only makes them while a network still trains, and
--output_dir of another network takes a copy of them. Progress goes to stderr.
"""

import argparse
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), str(ROOT / "benchmarks"), *sys.path[1:]]

import numpy as np  # noqa: E402
from completion import make_hearts, say  # noqa: E402
from completion_table import read_records  # noqa: E402
from folder_lock import one_at_a_time  # noqa: E402

from vecset.common.arguments import CommandParser, user_path  # noqa: E402
from vecset.common.atomic import append_text, require_writable, write_text  # noqa: E402
from vecset.common.cores import limit_threads  # noqa: E402
from vecset.common.errors import InputError, run_command  # noqa: E402
from vecset.common.memory import keep_freed_memory  # noqa: E402

VERSION = 2  # of the comparison: lines of another one do not count
BOOTSTRAP = 2000
KINDS = {
    "network": "network, N answers",
    "network_one": "network, its one answer",
    "posterior": "posterior shape model, N draws",
    "posterior_one": "posterior shape model, its one answer",
}


def main(argv=None):
    args = parse_arguments(argv)
    limit_threads()  # before torch is imported
    keep_freed_memory()
    require_writable(args.output_dir)
    run = Run(args)
    run.all_hearts()
    if not args.baselines_only:
        print(run.write_table())
    return 0


def parse_arguments(argv):
    parser = CommandParser("answers.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--checkpoint", type=user_path, required=True, help="of a network trained with --answer_noise")
    add("--output_dir", type=user_path, required=True, help="folder of lines and table, and of hearts that are made")
    add("--samples", type=int, default=39, help="answers per heart (default: 39)")
    add("--every", type=int, default=2, help="decode and score every N-th voxel along each axis (default: 2)")
    add("--no_baseline", action="store_true", help="the network alone")
    add("--baselines_only", action="store_true", help="only the baseline's lines; of --checkpoint only classes count")
    add("--hearts", type=int, help="only the first N of the unseen hearts (default: all)")
    add("--calibration", type=user_path, help="as for reconstruct.py (default: without)")
    add("--num_surface_points", type=int, help="as for reconstruct.py (default: as in training)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N")
    add("--seed", type=int, default=0, help="of synthetic hearts, points and answers (default: 0)")
    add("--train_csv", type=user_path, help="the training hearts, for the baseline")
    add("--val_csv", type=user_path, help="unseen hearts: a CSV of create_csv.py")
    add("--data_path", type=user_path, help="folder of the files in the CSVs (default: a CSV's own)")
    add("--num_train", type=int, default=200, help="synthetic hearts that the baseline learns from (default: 200)")
    add("--num_val", type=int, default=200, help="synthetic hearts that are scored (default: 200)")
    add("--size", type=int, default=128, help="voxels of synthetic hearts along an axis (default: 128)")
    args = parser.parse_args(argv)
    from vecset.fields.answers import LEAST, MOST

    if not LEAST <= args.samples <= MOST:
        raise InputError("--samples", f"{LEAST} to {MOST}", args.samples)
    for name, least in (("every", 1), ("hearts", 1), ("num_train", 3), ("num_val", 1), ("size", 16)):
        if getattr(args, name) is not None and getattr(args, name) < least:
            raise InputError(f"--{name}", f"at least {least}", getattr(args, name))
    if args.baselines_only and args.no_baseline:
        raise InputError.because("--baselines_only", "it makes the baseline's lines alone", "leave --no_baseline out")
    if args.val_csv and not (args.train_csv or args.no_baseline):
        raise InputError.because("", "the baseline has no training hearts", "give --train_csv, or --no_baseline")
    return args


def energy_score(answers: np.ndarray, truth: np.ndarray, voxel_ml: float) -> float:
    """Of answers (N, ...) and the truth (...), u8 labels of what is left out and 0, in the root of ml. One answer: its
    distance."""
    away = [distance(answer, truth, voxel_ml) for answer in answers]
    n = len(answers)
    between = [distance(answers[i], answers[j], voxel_ml) for i in range(n) for j in range(i)]
    return float(np.mean(away) - (np.mean(between) / 2 if between else 0.0))


def distance(one: np.ndarray, other: np.ndarray, voxel_ml: float) -> float:
    """The root of the volume (ml) of which two label maps say something else, a voxel of two structures twice: the
    length of the difference of their indicators."""
    differ = one != other
    twice = differ & (one > 0) & (other > 0)
    return float(np.sqrt((np.count_nonzero(differ) + np.count_nonzero(twice)) * voxel_ml))


class Run:
    """The hearts of one command line."""

    def __init__(self, args):
        from baseline_answers import BaselineAnswers

        from vecset.data.listed_case import check_disjoint, read_listed
        from vecset.inference.inputs import find_hearts
        from vecset.inference.model import load_model
        from vecset.report.completion import UnseenHeart, choices

        self.args = args
        how = {"device": args.device, "num_surface_points": args.num_surface_points, "seed": args.seed}
        self.model = load_model(args.checkpoint, decision_tuning=args.calibration, **how)
        if not (self.model.answer_numbers or args.baselines_only):
            raise InputError.because(args.checkpoint, "it gives one answer", "train with main_ae.py --answer_noise")
        train_csv, source = args.train_csv, args.val_csv
        if not source:
            train_csv, source = make_hearts(args.output_dir, args.num_train, args.num_val, args.size, args.seed)
        entries = find_hearts(source, args.data_path, say=say)
        self.training = []
        if not args.no_baseline:
            self.training = read_listed(train_csv, args.data_path or train_csv.parent)
            check_disjoint(self.training, entries, source)
        self.hearts = [UnseenHeart(self.model, entry, None, args.every, args.seed) for entry in entries[: args.hearts]]
        every = choices(self.model.class_names, self.hearts[0].original.annotated)
        self.choices = [choice for choice in every if choice.hidden]
        self.baselines = BaselineAnswers(
            [entry.path for entry in self.training],
            len(self.model.class_names),
            lambda: say(f"reads {len(self.training)} training hearts for the baseline"),
        )
        how = {"version": VERSION, "samples": args.samples, "every": args.every, "seed": args.seed}
        of_network = {
            "checkpoint": self.model.checkpoint_sha256,
            "calibration": self.model.tuning_sha256,
            "num_surface_points": self.model.num_surface_points,
        }
        folder = args.output_dir
        self.parts = []  # (file of its lines, what they depend on, the volumes and scores of a heart)
        if self.training:
            self.parts.append((folder / "baselines.jsonl", {**how, "training": len(self.training)}, self.posterior))
        if not args.baselines_only:
            self.parts.append((folder / "answers.jsonl", {**how, **of_network}, self.network))

    def all_hearts(self):
        with one_at_a_time(self.args.output_dir):
            for file, settings, answers in self.parts:
                done = self.done_before(file, settings)
                for number, left_out, heart in self.pairs():
                    case_id = heart.entry.case_id
                    if case_id in done:
                        continue
                    started = time.process_time()
                    record = {"heart": case_id, "row": left_out.name, "settings": settings}
                    reason = heart.lacks(left_out)
                    record |= {"skipped": reason} if reason else self.figures(left_out, heart, answers)
                    append_text(file, json.dumps(record) + "\n")
                    told = reason or ", ".join(f"{name} {value:.2f}" for name, value in record["energy"].items())
                    say(
                        f"[{number}/{len(self.hearts)}] {case_id} without {left_out.name}: {told} "
                        f"({time.process_time() - started:.1f} s of CPU)"
                    )

    def pairs(self):
        """(number from 1, what is left out, heart): the hearts of a choice one after the other, so that the baseline
        is fitted once for each choice."""
        several = len(self.choices)
        order = [(left_out, heart) for k, left_out in enumerate(self.choices) for heart in self.hearts[k::several]]
        return [(number, *pair) for number, pair in enumerate(order, 1)]

    @staticmethod
    def done_before(file, settings):
        records, whole = read_records(file)
        if any(record["settings"] != settings for record in records):
            raise InputError.because(
                file,
                "it has lines of another checkpoint or other options",
                "give another --output_dir, or move this file elsewhere",
            )
        if not whole:
            write_text(file, "".join(json.dumps(record) + "\n" for record in records))
        return {record["heart"] for record in records}

    def figures(self, left_out, heart, answers) -> dict:
        """classes {name: true_ml, and the low, high and one of the kind}, energy {kind of KINDS: score}, of the label
        maps {kind: (N, X, Y, Z) u8} that answers(left_out, heart) gives."""
        from vecset.fields.answers import interval_of, interval_round

        whole = heart.whole
        voxel_ml = float(np.prod(whole.frame.spacing_mm)) / 1000
        keep = np.zeros(256, np.uint8)
        keep[list(left_out.hidden)] = left_out.hidden
        free = ~np.isin(whole.truth_labels(), heart.given(left_out))
        truth = keep[whole.truth_labels()]
        found = {name: keep[labels] * free for name, labels in answers(left_out, heart).items()}
        shown = np.any([(labels > 0).any(0) for labels in found.values()], axis=0) | (truth > 0)
        box = tuple(slice(i.min(), i.max() + 1) for i in np.nonzero(shown))
        energy = {name: energy_score(labels[:, *box], truth[box], voxel_ml) for name, labels in found.items()}
        classes = {}
        for c in left_out.hidden:
            told = {"true_ml": float((truth == c).sum() * voxel_ml)}
            for name, labels in found.items():
                volumes = (labels == c).sum((1, 2, 3)) * voxel_ml
                if name.endswith("_one"):
                    told[name] = float(volumes[0])
                else:
                    told[f"{name}_low"], told[f"{name}_high"] = interval_of(volumes)
                    told[f"{name}_median"] = float(np.median(volumes))
                    if name == "network" and self.model.answer_interval is not None:
                        one = float((found["network_one"] == c).sum() * voxel_ml)
                        ends = interval_round(one, volumes, self.model.answer_interval)
                        told[f"{name}_low"], told[f"{name}_high"] = ends
            classes[self.model.class_names[c - 1]] = told
        return {"classes": classes, "energy": energy}

    def network(self, left_out, heart):
        """The network's answers, and its one answer, on the grid that is scored."""
        from vecset.fields.heart_field import CHUNK
        from vecset.inference.heart_result import answers_of, decode_heart
        from vecset.inference.settings import OutputSettings

        model, case_id, case = self.model, heart.entry.case_id, heart.case(left_out)
        how = OutputSettings(meshes=False, complete=True)
        decoded = decode_heart(model, how, case_id, case, None, CHUNK, lambda line: None)
        answers = np.stack(list(answers_of(model, decoded, self.args.samples)))
        return {"network": answers, "network_one": decoded.on_source[None]}

    def posterior(self, left_out, heart):
        """Draws and the one answer of the posterior shape model, on the grid that is scored."""
        from vecset.common.draws import random_stream

        n, answer = self.args.every, self.baselines.answer(heart, left_out)
        rng = random_stream(self.args.seed, 0, heart.entry.case_id, "posterior shape")
        draws = answer.samples("posterior_shape", self.args.samples, rng, every=n)
        return {"posterior": np.stack(list(draws)), "posterior_one": answer.labels("posterior_shape", every=n)[None]}

    def write_table(self) -> str:
        """Writes answers.md; returns its text."""
        mine = {heart.entry.case_id: {} for heart in self.hearts}
        for file, _, _ in reversed(self.parts):  # the network first
            for record in read_records(file)[0]:
                if record["heart"] in mine:
                    mine[record["heart"]] = joined(mine[record["heart"]], record)
        records = [record for record in mine.values() if record]
        text = "\n".join(table_of(records, self.args.samples)) + "\n"
        write_text(self.args.output_dir / "answers.md", text)
        return text


def joined(one: dict, other: dict) -> dict:
    """The lines of network and baseline on a heart as one."""
    if "classes" not in one or "classes" not in other:
        return {**other, **one}
    classes = {name: {**one["classes"][name], **told} for name, told in other["classes"].items()}
    return {**one, "classes": classes, "energy": {**one["energy"], **other["energy"]}}


def table_of(records: list[dict], samples: int) -> list[str]:
    """Markdown lines: coverage and width per structure and in all, and the energy scores."""
    scored = [record for record in records if "classes" in record]
    if not scored:
        return ["no heart could be scored"]
    kinds = [kind for kind in ("network", "posterior") if f"{kind}_low" in next(iter(scored[0]["classes"].values()))]
    lines = [
        f"{len(scored)} hearts ({len(records) - len(scored)} skipped), {samples} answers each.",
        "",
        "| left out | structures | " + " | ".join(f"{kind}: in 90 % | width / volume" for kind in kinds) + " |",
        "|---|" + "---|" * (1 + 2 * len(kinds)),
    ]
    names = list(dict.fromkeys(name for record in scored for name in record["classes"]))
    for name in ["all", *names]:
        groups = [[t for c, t in record["classes"].items() if name in ("all", c)] for record in scored]
        groups = [group for group in groups if group]
        cells = []
        for kind in kinds:
            inside = [[t[f"{kind}_low"] <= t["true_ml"] <= t[f"{kind}_high"] for t in group] for group in groups]
            widths = [
                (t[f"{kind}_high"] - t[f"{kind}_low"]) / t["true_ml"] for group in groups for t in group if t["true_ml"]
            ]
            share, low, high = bootstrap(inside)
            cells.append(f"{share:.3f} [{low:.3f}, {high:.3f}] | {np.median(widths) if widths else float('nan'):.2f}")
        lines.append(f"| {name} | {sum(map(len, groups))} | " + " | ".join(cells) + " |")
    lines += ["", "| energy score, root of ml | mean | network's answers less this |", "|---|---|---|"]
    for kind, words in KINDS.items():
        if kind not in scored[0]["energy"]:
            continue
        values = [[record["energy"][kind]] for record in scored]
        mean, low, high = bootstrap(values)
        less = bootstrap([[record["energy"]["network"] - record["energy"][kind]] for record in scored])
        beside = "" if kind == "network" else f"{less[0]:+.3f} [{less[1]:+.3f}, {less[2]:+.3f}]"
        lines.append(f"| {words} | {mean:.3f} [{low:.3f}, {high:.3f}] | {beside} |")
    return lines


def bootstrap(groups: list[list[float]]) -> tuple[float, float, float]:
    """The mean of all values, and the ends of its 95 % interval; groups: those of one heart, drawn together."""
    sums, counts = (np.array([f(group) for group in groups], float) for f in (np.sum, len))
    rows = np.random.default_rng(0).integers(len(groups), size=(BOOTSTRAP, len(groups)))
    means = sums[rows].sum(1) / counts[rows].sum(1)
    if len(groups) == 1:  # nothing is known of how hearts differ
        return float(sums.sum() / counts.sum()), float("nan"), float("nan")
    return float(sums.sum() / counts.sum()), *(float(x) for x in np.quantile(means, [0.025, 0.975]))


if __name__ == "__main__":
    sys.exit(run_command(main))
