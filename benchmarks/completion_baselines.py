#!/usr/bin/env python
"""What a completion has to beat: Dice of structures that are left out, by three baselines that see what is left.

    python benchmarks/completion_baselines.py --output_dir OUT                        40 + 8 synthetic hearts at 64^3
    python benchmarks/completion_baselines.py --output_dir OUT --num_train 200 --num_val 40 --size 96
    python benchmarks/completion_baselines.py --train_csv train.csv --val_csv val.csv --drop 2 2,3,4,5

Hearts 0..T-1 of the seed train, the next V are scored; they are made and prepared where OUT lacks them. Each structure
is left out alone, then the groups of `vecset.items.observation`. A row: the structures left out; of each baseline the
mean Dice of each of them over the hearts, given structures as given; the share of true volumes between the least and
the largest of 19 answers (90 % where truth and answers are alike); CPU seconds of fitting per training heart and of
the three answers per heart; the most memory in use so far. Progress goes to stderr.
"""

import argparse
import resource
import sys
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np  # noqa: E402

from vecset.common.arguments import user_path  # noqa: E402
from vecset.common.draws import random_stream  # noqa: E402
from vecset.common.errors import InputError, run_command  # noqa: E402
from vecset.data.case_file import write_case  # noqa: E402
from vecset.data.listed_case import read_listed  # noqa: E402
from vecset.data.preparation import Options, build_case  # noqa: E402
from vecset.imaging.classes import HEART_CLASSES  # noqa: E402
from vecset.imaging.label_map import read_label_map  # noqa: E402
from vecset.items.observation import GROUPS  # noqa: E402
from vecset.metrics.baselines import read_truth  # noqa: E402
from vecset.metrics.completion_baselines import LEAST_HEARTS, NAMES, CompletionBaselines  # noqa: E402
from vecset.metrics.overlap import mean_defined, score  # noqa: E402
from vecset.metrics.seen_heart import SeenHeart  # noqa: E402
from vecset.phantom.phantom import PhantomOptions  # noqa: E402
from vecset.phantom.population import make_population  # noqa: E402

DRAWS = 19  # truth and answers alike, the truth is the least or the largest of 20 in 10 %
POINTS = 100  # in the case files made here: the baselines use the truth alone


def phantom_cases(folder, count, size, seed):
    """The case files of hearts 0 .. count-1."""
    labels, cases = folder / "phantoms", folder / "cases"
    if make_population(labels, count, seed, PhantomOptions((size,) * 3)):
        raise InputError.because(labels, "some hearts could not be made", "see above")
    cases.mkdir(exist_ok=True)
    paths = []
    for source in sorted(labels.glob("phantom_*.nii.gz"))[:count]:
        path = cases / source.name.replace(".nii.gz", ".npz")
        if not path.exists() or path.stat().st_mtime < source.stat().st_mtime:
            label_map = read_label_map(source, len(HEART_CLASSES))
            write_case(path, build_case(label_map, Options(POINTS, POINTS, POINTS)))
        paths.append(path)
    return paths


def one_row(baselines, hearts, dropped):
    """Scores of one choice of structures: {baseline: (Dice per structure, share of volumes in the interval)}, CPU
    seconds of fitting and of answering one heart."""
    names = hearts[0].class_names
    given = [c for c in range(1, len(names) + 1) if c not in dropped]
    start = time.process_time()
    fitted = baselines.fit(given, dropped)
    fit_s = time.process_time() - start
    answers_s, dice, inside = 0.0, {name: [] for name in NAMES}, {name: [] for name in NAMES}
    for case in hearts:
        truth = case.truth_labels()
        here = [c for c in given if (truth == c).any()]
        if here != given:
            print(f"{case.case_id}: left out, it lacks a given structure", file=sys.stderr)
            continue
        start = time.process_time()
        answer = fitted.answer(SeenHeart.of_case(case, given, dropped))
        found = {name: answer.labels(name) for name in NAMES}
        answers_s += time.process_time() - start
        true_volumes = np.bincount(truth.ravel(), minlength=len(names) + 1)[list(dropped)]
        for name in NAMES:
            rows = score(truth, found[name], names, case.annotated)
            dice[name].append([rows[c - 1]["dice"] for c in dropped])
            draws = answer.samples(name, DRAWS, random_stream(0, 0, case.case_id, name))
            volumes = [np.bincount(d.ravel(), minlength=len(names) + 1)[list(dropped)] for d in draws]
            inside[name].append((np.min(volumes, 0) <= true_volumes) & (true_volumes <= np.max(volumes, 0)))
    scores = {
        name: ([mean_defined(column) for column in zip(*dice[name])], float(np.mean(inside[name]))) for name in NAMES
    }
    return scores, fit_s / len(fitted.hearts), answers_s / max(1, len(dice[NAMES[0]])), fitted


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--output_dir", type=user_path, help="where synthetic hearts are made")
    parser.add_argument("--num_train", type=int, default=40, help="synthetic training hearts")
    parser.add_argument("--num_val", type=int, default=8, help="synthetic hearts that are scored")
    parser.add_argument("--size", type=int, default=64, help="voxels of each synthetic heart along an axis")
    parser.add_argument("--seed", type=int, default=0, help="of the synthetic hearts")
    parser.add_argument("--train_csv", type=user_path, help="training hearts of your own")
    parser.add_argument("--val_csv", type=user_path, help="hearts of your own to score")
    parser.add_argument("--data_path", type=user_path, default=Path("."), help="folder of the files in the lists")
    parser.add_argument("--drop", nargs="+", metavar="IDS", help="as 2 or 2,3,4,5 (default: each, and the groups)")
    args = parser.parse_args(argv)
    for name, least in (("num_train", LEAST_HEARTS), ("num_val", 1), ("size", 8)):
        if getattr(args, name) < least:
            raise InputError(f"--{name}", f"at least {least}", getattr(args, name))
    if args.train_csv and args.val_csv:
        training, validation = (
            [c.path for c in read_listed(p, args.data_path)] for p in (args.train_csv, args.val_csv)
        )
    elif args.output_dir:
        paths = phantom_cases(args.output_dir, args.num_train + args.num_val, args.size, args.seed)
        training, validation = paths[: args.num_train], paths[args.num_train :]
    else:
        raise InputError.because("", "no hearts", "give --output_dir, or --train_csv and --val_csv")
    hearts = [read_truth(path) for path in validation]
    names = hearts[0].class_names
    if args.drop:
        try:
            drops = [tuple(sorted({int(c) for c in ids.split(",")})) for ids in args.drop]
        except ValueError:
            raise InputError("--drop", "ids as 2 or 2,3,4,5", " ".join(args.drop)) from None
        if any(c < 1 or c > len(names) for dropped in drops for c in dropped):
            raise InputError("--drop", f"ids 1..{len(names)}", " ".join(args.drop))
    else:
        groups = [tuple(names.index(n) + 1 for n in group if n in names) for group in GROUPS.values()]
        drops = [(c,) for c in range(1, len(names) + 1)] + [tuple(sorted(g)) for g in groups if g]
    baselines = CompletionBaselines(training, len(names))
    start = time.process_time()
    baselines.read()
    read_s = (time.process_time() - start) / len(training)
    print(f"{len(training)} training hearts, {len(hearts)} scored; {read_s:.2f} s of CPU to read a training heart\n")
    titles = " | ".join(f"{name.replace('_', ' ')} | in interval" for name in NAMES)
    print(f"| left out | {titles} | fit s | answer s | GB |")
    print("|---" * (2 * len(NAMES) + 4) + "|", flush=True)
    for dropped in drops:
        scores, fit_s, answer_s, fitted = one_row(baselines, hearts, dropped)
        cells = [", ".join(names[c - 1] for c in dropped)]
        for name in NAMES:
            dice, inside = scores[name]
            each = ", ".join("-" if d is None else f"{d:.2f}" for d in dice)
            mean = mean_defined(dice)
            cells.append(f"{mean:.3f}" + (f" ({each})" if len(dice) > 1 else ""))
            cells.append(f"{inside:.0%}")
        peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        cells += [f"{fit_s:.2f}", f"{answer_s:.1f}", f"{peak_gb:.1f}"]
        print("| " + " | ".join(cells) + " |", flush=True)
        box = np.round([fitted.grid.low, fitted.grid.high], 2).tolist()
        print(
            f"{dropped}: grid {fitted.grid.shape} over {box}, {fitted.model.num_modes} modes, noise "
            f"{fitted.model.noise:.3g}, spread {fitted.model.spread:.2f}; share and distance of the cuts "
            + ", ".join(f"{c}: {fitted.thresholds_share[c]:.2f} {fitted.thresholds_distance[c]:.3f}" for c in dropped),
            file=sys.stderr,
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
