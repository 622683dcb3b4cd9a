#!/usr/bin/env python
"""A trained model and hearts in, reconstructed hearts out: label maps on their own grid, meshes in mm, figures.

    OUT/CASE/labels.nii.gz       the label map, on the grid and with the header geometry of the source image (or with
                                 --spacing), class names and colours in the header
    OUT/CASE/labels.seg.nrrd     the same for 3D Slicer: a segment with name and colour per class
    OUT/CASE/meshes/NAME.ply     a mesh per class, in the patient's mm (RAS+), watertight and outward; as the label map
                                 it ends where the image ends
    OUT/CASE/heart.glb           all meshes in one file, coloured
    OUT/CASE/latents.npz         with --latents: the code of the heart, which --latents FILE decodes again
    OUT/CASE/result.json         this heart's figures, and what they were made from
    OUT/metrics.csv, .json       overlap, surface distances, volumes, topology per heart and class; means, counts
    OUT/overview.png             best, median and worst heart in three planes
    OUT/report.html              all of it to look at, in one file: tables, box plots, slices, surfaces in 3D, curves

Run again, it skips the hearts that are done (same checkpoint, same input, same options). A heart that fails is told in
one line and the others go on; the exit code is 1 then.

    python reconstruct.py --compare A B --output_dir OUT    two such folders side by side: OUT/compare.html
"""

import argparse
import functools
import hashlib
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from vecset.common.atomic import remove_leftovers, require_writable, write_text  # noqa: E402
from vecset.common.errors import InputError, describe_os_error, require_package, run_command  # noqa: E402

VERSION = 5  # of the method: hearts made by another one are made again
RESULT = "result.json"


def get_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    def add(flag, default, text, **kwargs):
        parser.add_argument(flag, default=default, help=f"{text} (default: {default})", **kwargs)

    parser.add_argument(
        "--checkpoint", type=Path, help="checkpoint-best.pth or -last.pth of main_ae.py (required, but for --compare)"
    )
    parser.add_argument(
        "--input",
        type=Path,
        help="case file (.npz), label map (.nii.gz, .nii, .nrrd, .mha), folder of either, CSV of "
        "create_csv.py, or a point cloud with labels in mm, RAS+ (.ply with a vertex property label; "
        ".npz with points_mm and labels) (required, but for --compare and --latents FILE)",
    )
    parser.add_argument("--output_dir", required=True, type=Path, help="folder of the results")
    add("--data_path", None, "folder that the files in a CSV are relative to; none: the CSV's own", type=Path)
    add(
        "--train_csv",
        None,
        "CSV of the training hearts: adds what their mean shape and the nearest of them would score; none: without",
        type=Path,
    )
    add("--num_surface_points", None, "surface points that the encoder reads; none: as in training", type=int)
    add(
        "--num_latents",
        None,
        "latents of a model with point queries: more of them describe a heart in more detail, "
        "fewer make a shorter code; none: as the model was trained",
        type=int,
    )
    add(
        "--calibration",
        None,
        "file of python -m vecset.calibrate: what decides about label maps, found on training "
        "hearts (thin vessels gain most); none: the sign of the distance and the largest logit",
        type=Path,
    )
    add("--chunk", 8192, "query points decoded at once; less needs less memory", type=int)
    add(
        "--mesh_cells",
        144,
        "grid cells along the edge of the unit cube (2.1 times the heart's radius) for the meshes",
        type=int,
    )
    add("--mesh_format", "ply", "of the meshes per class", choices=("ply", "stl", "obj"))
    parser.add_argument(
        "--lps", action="store_true", help="meshes per class in LPS mm, as 3D Slicer's files are (default: RAS mm)"
    )
    add(
        "--spacing",
        None,
        "of the label map that is written, mm, cubic voxels over the source's field of view; none: "
        "the source's own grid (1 mm for point clouds). Figures are always on the source's grid",
        type=float,
    )
    parser.add_argument(
        "--latents",
        nargs="?",
        const=True,
        metavar="FILE",
        help="alone: saves the code of each heart "
        "as latents.npz; with a file that this wrote (or a folder of them): decodes it again, instead "
        "of --input (default: neither)",
    )
    parser.add_argument("--no_meshes", action="store_true", help="label maps and figures only (default: meshes too)")
    add(
        "--spacing_from",
        None,
        "of label maps: which spacing holds where a header contradicts itself; none: refuse "
        "such files. Case files say it themselves",
        choices=("affine", "pixdim"),
    )
    add("--seed", 0, "seed of the draw of surface points", type=int)
    add("--device", "auto", "auto (CUDA where there is one), cpu, cuda, cuda:N")
    parser.add_argument("--overwrite", action="store_true", help="make done hearts again (default: skip them)")
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        type=Path,
        help="two output folders of this command: "
        "writes compare.html (figures and their differences, the same hearts paired, slices and "
        "surfaces beside each other) into --output_dir, and nothing else (default: none)",
    )
    add(
        "--run_dir",
        None,
        "folder of the training run, whose curves report.html shows; none: the checkpoint's, where it has a log.txt",
        type=Path,
    )
    return parser


def main(argv=None):
    parser = get_parser()
    args = parser.parse_args(argv)
    if args.compare:
        from vecset.report.compare import write_comparison

        print(f"written: {write_comparison(*args.compare, args.output_dir)}")
        return 0
    codes = None if args.latents in (None, True) else Path(args.latents)
    if codes and (args.input or args.train_csv):
        raise InputError(
            "--latents",
            "codes alone",
            f"{codes} together with --input or --train_csv",
            "give --latents without a file to save codes",
        )
    args.input = codes or args.input
    lacking = [f"--{flag}" for flag in ("checkpoint", "input") if getattr(args, flag) is None]
    if lacking:
        parser.error(f"the following arguments are required: {', '.join(lacking)}")
    for flag, least in (("chunk", 1), ("mesh_cells", 8), ("num_surface_points", 1), ("num_latents", 1)):
        value = getattr(args, flag)
        if value is not None and value < least:
            raise InputError(f"--{flag}", f"at least {least}", value)
    if args.spacing is not None and not 0.05 <= args.spacing <= 50:
        raise InputError("--spacing", "mm, 0.05 to 50", args.spacing)
    from vecset.inference.inputs import find_codes, find_hearts

    if not args.checkpoint.is_file():
        raise InputError(
            args.checkpoint,
            "a checkpoint",
            "a folder" if args.checkpoint.is_dir() else "no such file",
            "give a checkpoint-best.pth or -last.pth of main_ae.py",
        )
    require_package("SimpleITK")  # writes the .seg.nrrd of every heart
    reconstruction = Reconstruction(args)
    hearts = find_codes(codes) if codes else find_hearts(args.input, args.data_path, len(reconstruction.class_names))
    reconstruction.prepare_baselines(hearts)
    require_writable(args.output_dir)
    remove_leftovers(args.output_dir)

    from tqdm import tqdm

    results, failed, skipped = {}, [], 0
    with tqdm(hearts, unit="heart", desc="reconstruct", dynamic_ncols=True) as bar:
        for heart in bar:
            try:
                result, fresh = reconstruction.result_of(heart, say=tqdm.write)
            except (InputError, OSError) as error:
                line = str(error) if isinstance(error, InputError) else describe_os_error(error)
                tqdm.write(f"failed: {heart.case_id}: {line}", file=sys.stderr)
                failed.append(heart.case_id)
                continue
            results[heart.case_id] = result
            skipped += not fresh
    if skipped:
        print(f"{skipped} of {len(hearts)} hearts were done before")
    dense = sum(r["decoding"]["dense"] for r in results.values())
    if dense:  # also where there is no truth, and hence no report
        print(
            f"{dense} of {len(results)} hearts were decoded voxel by voxel: coarse to fine was not safe, or no gain, "
            "for them"
        )
    if results:
        reconstruction.write_report({h.case_id: h for h in hearts}, results)
    if failed:
        print(
            f"{len(failed)} of {len(hearts)} hearts failed: {', '.join(failed[:20])}"
            + (", ..." if len(failed) > 20 else ""),
            file=sys.stderr,
        )
    return 1 if failed else 0


class Reconstruction:
    """One run: the model and what decides the results. Hearts are told apart by `fingerprint`."""

    def __init__(self, args):
        from vecset.imaging.label_map import file_sha256
        from vecset.models.autoencoder import parse_model_name
        from vecset.models.checkpoint import load_checkpoint, model_from_checkpoint

        self.args, self.output_dir = args, args.output_dir
        self.checkpoint = load_checkpoint(args.checkpoint)
        self.class_names = list(self.checkpoint["class_names"])
        self.device = choose_device(args.device)
        self.model = model_from_checkpoint(self.checkpoint, self.device, args.checkpoint)
        training = self.checkpoint["args"]
        self.training = dict(training if isinstance(training, dict) else vars(training))
        self.truths = self.truths_fingerprint = None
        self.calibration = None
        self.beside = ThreadPoolExecutor(1)
        self.model.requires_grad_(False)  # for nothing is trained here
        self.settings = {
            "version": VERSION,
            "checkpoint_sha256": file_sha256(args.checkpoint),
            "num_surface_points": args.num_surface_points or int(self.training["point_cloud_size"]),
            "balance": float(self.training.get("balance") or 0.0),
            "seed": args.seed,
            "spacing_from": args.spacing_from,
            "meshes": not args.no_meshes,
            "mesh_cells": None if args.no_meshes else args.mesh_cells,
            "mesh_format": None if args.no_meshes else args.mesh_format,
            "lps": bool(args.lps and not args.no_meshes),
            "spacing_mm": args.spacing,
            "latents": args.latents is True,
        }
        if args.calibration:
            from vecset.inference.decision_tuning import read_calibration

            self.calibration = read_calibration(args.calibration, self.class_names, self.settings["checkpoint_sha256"])
            self.settings["calibration_sha256"] = file_sha256(args.calibration)
        sizes = parse_model_name(self.checkpoint["model_config"]["name"])
        self.settings["num_latents"] = args.num_latents or sizes["num_latents"]
        if sizes["query_type"] == "point" and self.settings["num_latents"] > self.settings["num_surface_points"]:
            raise InputError(
                "--num_surface_points",
                f"at least the {self.settings['num_latents']} latents of the model, which are chosen among the points",
                self.settings["num_surface_points"],
                "raise it",
            )
        if args.num_latents:
            self.model.use_latents(args.num_latents)

    def prepare_baselines(self, hearts):
        """Reads the training truths where a heart's baseline scores are not there yet."""
        if not self.args.train_csv:
            return
        from vecset.data.listed_case import read_split
        from vecset.metrics.baselines import fingerprint

        training = read_split(
            self.args.train_csv, self.args.data_path or self.args.train_csv.parent, len(self.class_names)
        )
        paths = [entry.path for entry in training]
        trained = {path.resolve() for path in paths}
        known = [h for h in hearts if h.path.resolve() in trained]
        if known:
            raise InputError(
                self.args.train_csv,
                "training hearts that are not reconstructed here",
                f"{known[0].case_id} in both",
                "leave out --train_csv: the baselines would know the answer",
            )
        self.training_paths, self.truths_fingerprint = paths, fingerprint(paths)
        old = (self.read_result(h).get("baselines", {}) for h in hearts)
        if self.args.overwrite or any(b.get("fingerprint") != self.truths_fingerprint for b in old):
            self.read_training_truths()

    def read_training_truths(self):
        from tqdm import tqdm

        from vecset.metrics.baselines import read_truths

        self.truths = read_truths(
            self.training_paths,
            len(self.class_names),
            lambda p: tqdm(p, unit="heart", desc="training hearts", dynamic_ncols=True),
        )

    def folder(self, heart):
        return self.output_dir / heart.case_id

    def read_result(self, heart):
        """What result.json says, {} where there is none that can be read."""
        try:
            return json.loads((self.folder(heart) / RESULT).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def result_of(self, heart, say):
        """(result, whether it was made now) of one heart: from result.json where that is what this run would make."""
        from vecset.inference.inputs import input_sha256

        made_from = {**self.settings, "input_sha256": input_sha256(heart)}
        fingerprint = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
        result = self.read_result(heart)
        done = (
            not self.args.overwrite
            and result.get("fingerprint") == fingerprint
            and all((self.folder(heart) / name).is_file() for name in result["files"])
        )
        has_baselines = result.get("baselines", {}).get("fingerprint") == self.truths_fingerprint
        if done and (has_baselines or not self.truths_fingerprint):
            return result, False
        from vecset.data.listed_case import LATENTS
        from vecset.inference.inputs import load_heart

        code = None
        if heart.kind == LATENTS:
            code, case = self.stored_code(heart)
        else:
            case = load_heart(
                heart,
                self.class_names,
                self.args.seed,
                self.settings["num_surface_points"],
                self.args.spacing_from,
                self.args.spacing,
            )
        if not done:
            try:
                made = self.reconstruct(heart, case, code, say)
            except OSError:
                self.discard(heart)
                raise
            result = {
                "case_id": heart.case_id,
                "fingerprint": fingerprint,
                "made_from": made_from,
                "input": heart.path.name,
                **made,
            }
        if self.truths_fingerprint and result["scores"]:
            if self.truths is None:  # the heart had its baselines, but is made again: of another version, other options
                self.read_training_truths()
            from vecset.metrics.baselines import baseline_scores

            result["baselines"] = {
                "fingerprint": self.truths_fingerprint,
                **baseline_scores(self.truths, case, self.class_names),
            }
        write_text(self.folder(heart) / RESULT, json.dumps(result, indent=1, allow_nan=False) + "\n")
        return result, not done

    def stored_code(self, heart):
        """(code (1, M, L), Case) of a file that --latents wrote with this very checkpoint."""
        import torch

        from vecset.inference.latents import read_latents

        latents, case = read_latents(heart.path)
        if case.meta["checkpoint_sha256"] != self.settings["checkpoint_sha256"]:
            raise InputError(
                heart.path,
                "codes of this checkpoint",
                "codes that another one made",
                "give the checkpoint that they were made with",
            )
        return torch.from_numpy(latents)[None].to(self.device), case

    def discard(self, heart):
        """Takes away what a full disk left of a heart: a label map without its figures would look like a result. Only
        files of the names that `reconstruct` writes, and only where there is no finished result."""
        from vecset.inference import heart_files

        if not (self.folder(heart) / RESULT).is_file():
            heart_files.discard(self.folder(heart))

    def encode(self, heart, case):
        """The code (1, M, L) of a case's surface points."""
        import torch

        from vecset.inference.inputs import draw_surface
        from vecset.models.embedding import surface_features

        points_unit, labels = draw_surface(
            case, heart.case_id, self.settings["num_surface_points"], self.settings["balance"], self.args.seed
        )
        surface_BNF = surface_features(
            torch.from_numpy(points_unit)[None], torch.from_numpy(labels)[None], len(self.class_names)
        ).to(self.device)
        return self.model.encode(surface_BNF)

    def reconstruct(self, heart, case, code, say):
        """Encodes (where there is no `code` yet), decodes, writes label map, meshes, code, scores: a dict with files,
        scores and decoding."""
        from vecset.inference.decoding import HeartField, decode_field, with_spacing
        from vecset.inference.heart_files import write_labels, write_meshes
        from vecset.inference.latents import FILE, write_latents
        from vecset.metrics.overlap import score
        from vecset.metrics.resampling_limit import revoxelised

        start = time.time()
        floor = None
        if case.truth_crop is not None:  # beside the decoding: it needs no model
            rest = self.class_names, case.annotated, case.frame.spacing_mm
            floor = self.beside.submit(lambda: score(case.truth_crop, revoxelised(case), *rest))
        code = self.encode(heart, case) if code is None else code
        field = HeartField(self.model, code, self.args.chunk, self.device, self.calibration)
        frame, geometry, on_source = case.frame, case.meta.get("source_geometry"), None
        if self.args.spacing:
            frame, geometry = with_spacing(frame, self.args.spacing), None
        decoded = decode_field(field, frame, seed=self.args.seed)
        if decoded.dense:
            why = (
                f"{decoded.missed} of {decoded.checked} voxels checked differ from the coarse-to-fine label map"
                if decoded.missed
                else f"coarse to fine leaves only {decoded.skipped} of {decoded.voxels} voxels alone"
            )
            say(f"{heart.case_id}: {why}; decoded voxel by voxel instead")
        if case.truth_crop is not None:  # figures are taken where the truth is
            on_source = decode_field(field, case.frame, seed=self.args.seed) if self.args.spacing else decoded
        folder = self.folder(heart)
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        (folder / RESULT).unlink(missing_ok=True)  # from here on the folder holds parts of the new result
        files = write_labels(folder, decoded.labels, frame, self.class_names, geometry)
        if self.settings["latents"]:
            write_latents(
                folder / FILE,
                code[0].float().cpu().numpy(),
                case,
                heart.case_id,
                self.class_names,
                self.settings["checkpoint_sha256"],
            )
            files.append(FILE)
        files += write_meshes(folder, field, case.frame, self.class_names, self.settings)
        if field.fallbacks > decoded.dense:
            say(
                f"{heart.case_id}: the grid of its meshes or figures was decoded point by point, too: coarse to fine "
                "was not safe, or no gain"
            )
        scores = score(case.truth_labels(), on_source.labels, *rest) if on_source is not None else []
        return {
            "files": files,
            "scores": scores,
            "floor": floor.result() if floor else [],
            "decoding": {
                "queries": decoded.queries,
                "voxels": decoded.voxels,
                "skipped": decoded.skipped,
                "checked": decoded.checked,
                "missed": decoded.missed,
                "dense": decoded.dense,
                "fallbacks": field.fallbacks,
                "seconds": round(time.time() - start, 2),
            },
        }

    def write_report(self, hearts, results):
        """metrics.csv, metrics.json, overview.png, report.html, and the table on the terminal."""
        from vecset.imaging.classes import class_colours
        from vecset.imaging.pictures import write_overview
        from vecset.metrics.overlap import mean_over_classes
        from vecset.models.autoencoder import option_words
        from vecset.report import tables as report
        from vecset.report.page import best_median_worst, write_html_report

        scored = {case_id: r for case_id, r in results.items() if r["scores"]}
        if not scored:
            print("no truth in the input, hence no figures")
            return
        with_baselines = self.truths_fingerprint is not None
        rows = [
            row
            for case_id, r in scored.items()
            for row in report.table_rows(case_id, r["scores"], r["baselines"] if with_baselines else None, r["floor"])
        ]
        known = {
            case_id: {
                "mean_dice": mean_over_classes(r["scores"]),
                "decoding": r["decoding"],
                "nearest_heart_file": r["baselines"].get("nearest_heart_file") if with_baselines else None,
            }
            for case_id, r in scored.items()
        }
        config = self.checkpoint["model_config"]
        settings = {
            **self.settings,
            "checkpoint": str(self.args.checkpoint),
            "model": f"{config['name']} {option_words(config)}".strip(),
            "calibration": str(self.args.calibration or "") or None,
            "epoch": self.checkpoint.get("epoch"),
            "input": str(self.args.input),
            "data_path": str(self.args.data_path or "") or None,
            "train_csv": str(self.args.train_csv or "") or None,
            "device": str(self.device),
            "chunk": self.args.chunk,
        }
        content = report.report(rows, known, settings)
        report.write_csv(self.output_dir / "metrics.csv", rows)
        report.write_json(self.output_dir / "metrics.json", content)
        truth_of = self.truth_reader(hearts)
        chosen = best_median_worst({c: k["mean_dice"] for c, k in known.items()})
        pictures = [self.picture_of(what, case_id, truth_of, scored[case_id]) for what, case_id in chosen]
        write_overview(
            self.output_dir / "overview.png", pictures, self.class_names, class_colours(len(self.class_names))
        )
        page = write_html_report(self.output_dir, self.args.run_dir or self.args.checkpoint.parent, truth_of, chosen)
        print("\n".join(report.table_lines(content)))
        print(f"to look at, in a browser: {page} ({page.stat().st_size / 1e6:.1f} MB)")

    def truth_reader(self, hearts):
        """A function case_id -> (truth on its source grid, affine), that keeps what it has read."""
        from vecset.inference.inputs import load_truth

        return functools.cache(lambda c: load_truth(hearts[c], len(self.class_names), self.args.spacing_from))

    def picture_of(self, what, case_id, truth_of, result):
        from vecset.metrics.overlap import mean_over_classes
        from vecset.report.page import read_reconstruction

        truth, affine = truth_of(case_id)
        prediction, _ = read_reconstruction(self.output_dir, case_id, truth, affine)
        return {
            "title": f"{what}: {case_id}, mean Dice {mean_over_classes(result['scores']) or 0:.3f}",
            "truth": truth,
            "affine": affine,
            "prediction": prediction,
        }


def choose_device(name):
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            "--device",
            "auto, cpu, cuda or cuda:N that this machine has",
            f"{name} ({str(error).splitlines()[0][:100]})",
            "give another",
        ) from None
    return device


if __name__ == "__main__":
    sys.exit(run_command(main))
