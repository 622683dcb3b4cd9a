"""What a network trained with --observe infers of unseen hearts: structures and groups are left out, and scored.

    python -m vecset.complete --checkpoint train/checkpoint-best.pth --input cases/val.csv

Writes completion.json and completion.png (what was seen, what the network drew, the truth) into the folder `completion`
beside the checkpoint. report.html of a later reconstruct.py shows both. Hearts are inferred as by reconstruct.py with
--given and --complete. What baselines that see the same would score: benchmarks/completion.py.
"""

import argparse
import functools
import json
import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[1])
if not __package__:  # run as a file: the repository's root in place of this folder, whose metrics/ would shadow others
    sys.path[:] = [ROOT] + [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]

from vecset.common.arguments import CommandParser, user_path  # noqa: E402
from vecset.common.cores import limit_threads  # noqa: E402
from vecset.common.errors import InputError, run_command  # noqa: E402
from vecset.common.memory import keep_freed_memory  # noqa: E402

LEAST = {"hearts": 1, "grid": 8, "num_surface_points": 1, "num_latents": 1}
PICTURE_FINER = 2  # times as many voxels along an axis as the figures have


def get_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        "python -m vecset.complete", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--checkpoint", type=user_path, required=True, help="checkpoint-best.pth of main_ae.py --observe")
    add("--input", type=user_path, required=True, help="unseen hearts, as for reconstruct.py")
    add("--data_path", type=user_path, help="folder of the files in a CSV (default: the CSV's own)")
    add("--output_dir", type=user_path, help="folder of the results (default: completion, beside the checkpoint)")
    add("--hearts", type=int, default=4, help="number of hearts used, evenly chosen (default: 4)")
    add("--grid", type=int, default=48, help="voxels scored along the longest axis at most (default: 48)")
    add("--calibration", type=user_path, help="as for reconstruct.py (default: without)")
    add("--num_surface_points", type=int, help="as for reconstruct.py (default: as in training)")
    add("--num_latents", type=int, help="as for reconstruct.py (default: as in training)")
    add("--seed", type=int, default=0, help="seed of the draws (default: 0)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = get_parser().parse_args(argv)
    for flag, least in LEAST.items():
        if getattr(args, flag) is not None and getattr(args, flag) < least:
            raise InputError(f"--{flag}", f"at least {least}", getattr(args, flag))
    limit_threads()  # before torch is imported
    keep_freed_memory()
    from tqdm import tqdm

    from vecset.common.atomic import require_writable, write_text
    from vecset.inference.arguments import opened_model
    from vecset.inference.decision_tuning_search import evenly_chosen
    from vecset.inference.inputs import find_hearts
    from vecset.report.completion import VERSION, UnseenHeart, measure
    from vecset.report.completion_picture import write_examples
    from vecset.report.completion_section import FIGURES, FOLDER, PICTURE, table_lines

    model = opened_model(args)
    if not model.told_states:
        print("note: this model was not trained to infer what it does not see (main_ae.py --observe); it guesses")
    folder = args.output_dir or args.checkpoint.parent / FOLDER
    entries = evenly_chosen(find_hearts(args.input, args.data_path), args.hearts)
    every = -(-max(UnseenHeart(model, entries[0]).original.frame.shape) // args.grid)
    require_writable(folder)
    hearts = [UnseenHeart(model, entry, every=every) for entry in entries]
    found = measure(model, hearts, functools.partial(tqdm, desc="infers", unit="heart", dynamic_ncols=True))
    settings = {
        "version": VERSION,
        "checkpoint_sha256": model.checkpoint_sha256,
        "epoch": model.epoch,
        "every": every,
        "grid": list(hearts[0].whole.frame.shape),
        "num_surface_points": model.num_surface_points,
        "num_latents": model.num_latents,
        "calibration": str(args.calibration or "") or None,
        "seed": args.seed,
    }
    write_examples(folder / PICTURE, model, [UnseenHeart(model, e, every=-(-every // PICTURE_FINER)) for e in entries])
    write_text(folder / FIGURES, json.dumps({"settings": settings, **found}, indent=1, allow_nan=False) + "\n")
    print("\n".join(table_lines(found)))
    print(f"written: {folder / FIGURES}, {PICTURE}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
