"""A trained model and hearts in, reconstructed hearts out: label maps on their own grid, meshes in mm, figures.

    OUT/CASE/labels.nii.gz       the label map, on the grid and with the header geometry of the source image (or with
                                 --spacing, --extend), class names and colours in the header
    OUT/CASE/labels.seg.nrrd     the same for 3D Slicer: a segment with name and colour per class
    OUT/CASE/inferred.nii.gz     where --given or --complete infer something: 1 where a voxel's structure is inferred
    OUT/CASE/meshes/NAME.ply     a mesh per class, in the patient's mm (RAS+), watertight and outward;
                                 like the label map it ends where the image ends (or --extend)
    OUT/CASE/heart.glb           all meshes in one file, coloured
    OUT/CASE/latents.npz         with --latents: the latents of the heart, which --latents FILE decodes again
    OUT/CASE/samples/NNN.nii.gz, OUT/CASE/probability/NAME.nii.gz
                                 with --samples: the label map of every answer; the share of them with the structure
    OUT/CASE/repaired.nii.gz     with --repair: the label map that was given, on its own grid, mended
    OUT/CASE/result.json         this heart's figures, and what they were made from
    OUT/metrics.csv, .json       overlap, surface distances, volumes, topology per heart and class; means, counts
    OUT/samples.csv              with --samples: volumes of the structures that are not seen whole, with intervals
    OUT/overview.png             best, median and worst heart in three planes
    OUT/report.html              all of it in one page: tables, box plots, slices, surfaces in 3D, training curves

A second run skips the hearts that are done (same checkpoint, same input, same options). A heart that fails is
reported in one line; the others continue, and the exit code is 1.

    python reconstruct.py --compare A B --output_dir OUT    two such folders side by side: OUT/compare.html
"""

import argparse
import functools
import sys

from vecset.common.atomic import remove_leftovers, require_writable
from vecset.common.cores import limit_threads
from vecset.common.errors import InputError, describe_failure, require_package, run_command
from vecset.common.memory import keep_freed_memory
from vecset.inference.arguments import LATENT_BITS, build_parser, opened_model, parse
from vecset.inference.closing_lines import (
    earlier_notes,
    failed_line,
    latents_lines,
    repair_lines,
    slices_lines,
    unknown_lines,
)


def get_parser() -> argparse.ArgumentParser:
    return build_parser(__doc__ or "")  # python -OO keeps no docstrings


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    return parse(get_parser(), argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    if args.compare:
        from vecset.report.compare import write_comparison

        faults = []
        print(f"written: {write_comparison(*args.compare, args.output_dir, faults=faults)}")
        for fault in faults:
            print(f"error: {fault}", file=sys.stderr)
        return 1 if faults else 0
    limit_threads()  # before torch is imported
    keep_freed_memory()
    from vecset.data.case_classes import check_chosen
    from vecset.fields.claims import claims_line
    from vecset.inference.inputs import find_hearts, find_stored_latents
    from vecset.inference.own_tables import check_chosen_in_tables, mapping_of, taken_by_number
    from vecset.inference.reconstruction import Reconstruction
    from vecset.inference.refinement import Refinement, require_logits
    from vecset.inference.settings import OutputSettings
    from vecset.report.samples import TABLE, sample_lines, write_table

    require_package("SimpleITK")  # writes the .seg.nrrd of every heart
    model = opened_model(args)
    if model.latent_words:
        print(f"note: {model.latent_words}")
    mapping = mapping_of(args.label_mapping, model.class_names)
    for flag in ("annotated", "given"):
        check_chosen(f"--{flag}", getattr(args, flag) or (), model.class_names)
    if (args.given or args.complete or args.slices) and not model.told_states:
        print("note: this model was not trained to infer what it does not see (main_ae.py --observe); it guesses")
    elif args.slices and "slices" not in model.observed:
        print("note: this model was not trained on slices (main_ae.py --observe slices=...); it guesses between them")
    if args.samples and not model.answer_numbers:
        raise InputError.because(
            "--samples", "this checkpoint gives one answer", "train with main_ae.py --answer_noise, or leave it out"
        )
    if args.samples and model.answer_interval is None:
        lacks = f"{args.calibration} has no factor for them" if args.calibration else "without --calibration"
        print(
            f"note: intervals of volumes are the quantiles of the answers, not calibrated ({lacks}); "
            "python -m vecset.calibrate --answers_csv HELD_OUT.csv finds the factor"
        )
    refine = Refinement(args.refine or 0.0, args.refine_steps or 0)
    if refine:
        require_logits(model)
    settings = OutputSettings(
        meshes=not args.no_meshes,
        mesh_cells=args.mesh_cells,
        mesh_format=args.mesh_format,
        lps=args.lps,
        spacing_mm=args.spacing,
        spacing_from=args.spacing_from,
        geometry_from=args.geometry_from,
        latents=args.latents is True,
        latent_bits=args.latent_bits or LATENT_BITS[0],
        label_mapping=mapping,
        annotated=args.annotated,
        given=args.given,
        complete=args.complete,
        extend_mm=args.extend or 0.0,
        samples=args.samples or 0,
        repair=args.repair,
        slices=args.slices,
        refine=refine,
    )
    if args.latents not in (None, True):
        hearts = find_stored_latents(args.input)
    else:
        from vecset.data.label_folder import Selection, require_apart

        selection = Selection(args.recursive, args.pattern)
        require_apart(args.input, args.output_dir, selection)
        hearts = find_hearts(
            args.input,
            args.data_path,
            selection,
            lambda line: print(line, file=sys.stderr),
            args.slices,
        )
        check_chosen_in_tables(hearts, model.class_names, mapping, args.annotated, args.given)
        by_number = taken_by_number(hearts, model.class_names, mapping)
        if by_number:
            print(f"note: {by_number}")
    baselines = read_baselines(args, hearts, model.class_names) if args.train_csv else None
    require_writable(args.output_dir)
    remove_leftovers(args.output_dir)
    removed = []

    def remove_tables():
        from vecset.report.results import remove_results  # imports matplotlib

        removed.extend(remove_results(args.output_dir))

    how = baselines, args.chunk, args.overwrite, remove_tables
    try:
        outcome = Reconstruction(model, settings, args.output_dir, *how).run(hearts)
    except BaseException:  # an interrupt, too
        if removed:
            told = f"{', '.join(removed)} of {args.output_dir} spoke of hearts that this run was making again"
            print(f"note: {told}, and are removed; a run that ends writes them", file=sys.stderr)
        raise
    if outcome.skipped:
        print(f"{len(outcome.skipped)} of {len(hearts)} hearts were done before")
        print("".join(f"{line}\n" for line in earlier_notes([outcome.results[c] for c in outcome.skipped])), end="")
    if outcome.dense:  # also where there is no truth, and hence no report
        print(
            f"{outcome.dense} of {len(outcome.results)} hearts were decoded voxel by voxel: coarse to fine was not "
            "safe, or no gain, for them"
        )
    counts = [claims for result in outcome.results.values() if (claims := result["decoding"].get("claims"))]
    if counts:
        print(claims_line(counts))
    print("".join(f"{line}\n" for line in repair_lines(outcome.results.values())), end="")
    print("".join(f"{line}\n" for line in slices_lines(list(outcome.results.values()))), end="")
    print("".join(f"{line}\n" for line in unknown_lines(list(outcome.results.values()))), end="")
    write_table(args.output_dir / TABLE, list(outcome.results.values()))
    print("".join(f"{line}\n" for line in sample_lines(list(outcome.results.values()))), end="")
    faults = report(args, model, settings, hearts, outcome) if outcome.results else []
    if settings.latents and outcome.results:
        print("".join(f"{line}\n" for line in latents_lines(outcome.results.values(), settings.latent_bits)), end="")
    if outcome.failed:
        print(failed_line(outcome.failed, hearts), file=sys.stderr)
    return 1 if outcome.failed or faults else 0


def read_baselines(args, hearts, class_names):
    """The `Baselines` of --train_csv. InputError where its hearts have other classes than `class_names`, and where a
    heart to reconstruct is among them."""
    from tqdm import tqdm

    from vecset.data.listed_case import read_split
    from vecset.imaging.class_names import check_same_names
    from vecset.metrics.baselines import Baselines

    cases = read_split(args.train_csv, args.data_path or args.train_csv.parent, len(class_names))
    if any(case.dataset for case in cases):  # what one data set has not annotated would count as background
        raise InputError.because(
            args.train_csv,
            "it lists several data sets, and the baselines of --train_csv are those of one",
            "give a train.csv of a single data set with the checkpoint's classes, or leave --train_csv out",
        )
    check_same_names(
        cases[0].class_names, class_names, cases[0].path, args.checkpoint, "give a --train_csv of the same classes"
    )
    paths = [case.path for case in cases]
    trained = {path.resolve() for path in paths}
    known = [heart for heart in hearts if heart.path.resolve() in trained]
    if known:
        raise InputError.because(
            args.train_csv,
            f"{known[0].case_id} is to be reconstructed and among the training hearts",
            "leave out --train_csv: the baselines would know the answer",
        )
    return Baselines(
        paths, len(class_names), lambda p: tqdm(p, unit="heart", desc="training hearts", dynamic_ncols=True)
    )


def report(args, model, settings, hearts, outcome):
    """Writes tables and pages over all hearts, and prints the table. Returns what could not be shown, a line each,
    which it prints too."""
    from vecset.inference.inputs import load_truth
    from vecset.inference.settings import made_from
    from vecset.report.results import write_results

    by_id = {heart.case_id: heart for heart in hearts}
    read = args.spacing_from, args.geometry_from, settings.label_mapping
    truth_of = functools.cache(lambda c: outcome.truths.get(c) or load_truth(by_id[c], model.class_names, *read))
    told = {
        **made_from(model, settings),
        "checkpoint": str(args.checkpoint),
        "model": model.description,
        "calibration": str(args.calibration or "") or None,
        "epoch": model.epoch,
        "input": str(args.input),
        "recursive": args.recursive,
        "pattern": args.pattern,
        "data_path": str(args.data_path or "") or None,
        "label_mapping": str(args.label_mapping or "") or None,
        "train_csv": str(args.train_csv or "") or None,
        "device": str(model.device),
        "chunk": args.chunk,
        "remark": args.remark,
    }
    run_dir = args.run_dir or args.checkpoint.parent
    try:
        lines, faults = write_results(
            args.output_dir,
            outcome.results,
            told,
            model.class_names,
            truth_of,
            run_dir,
            args.train_csv is not None,
            {heart.case_id: heart.dataset for heart in hearts},
        )
    except OSError as error:  # of the tables; the hearts are made all the same
        lines, faults = [], [describe_failure(args.output_dir, error)]
    print("".join(f"{line}\n" for line in lines), end="")
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    return faults


if __name__ == "__main__":
    sys.exit(run_command(main))
