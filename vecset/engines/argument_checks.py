"""Checks of the flags of vecset/main_ae.py that need several of them, and which flags a network makes no use of."""

import argparse

from vecset.common.cores import usable_cores
from vecset.common.errors import InputError
from vecset.engines.arguments import build_parser
from vecset.engines.losses import DEFAULT_WEIGHTS, OF_ANSWERS, losses_of
from vecset.items.observation import parse_observe
from vecset.models.autoencoder import parse_model_name


def check_arguments(args: argparse.Namespace) -> None:
    """What no single flag can check for itself. Raises InputError."""
    queries = args.near_points + args.inside_points + args.outside_points
    if args.eikonal_weight and args.eikonal_points > queries:
        raise InputError(
            "--eikonal_points",
            "at most the number of query points",
            f"{args.eikonal_points} of {queries}",
            "lower it, or give more query points",
        )
    groups, used = ("near_points", "inside_points", "outside_points"), losses_of(args.network, args.class_outputs)
    for loss, needs in (("vol", groups[1:]), ("near", groups[:1]), ("truncated", groups)):
        wanted = getattr(args, f"{loss}_weight") if loss in used else 0
        if wanted and not any(getattr(args, flag) for flag in needs):
            raise InputError.because(
                f"--{loss}_weight",
                f"there are no points for this loss (--{' or --'.join(needs)})",
                f"give some, or --{loss}_weight 0",
            )
    _check_latents(args)
    _check_network(args)
    if args.observe:
        parse_observe(args.observe)
        if args.network != "joint":
            raise InputError.because(
                "--observe", f"only --network joint is told what is seen, not {args.network}", "leave one of them out"
            )
    if args.answer_noise:
        _check_answers(args)
    if args.shape_model:
        _check_shape_model(args)
    most = max(64, 8 * usable_cores())
    if args.num_workers > most:  # thousands of processes take all memory before anything can be said
        raise InputError(
            "--num_workers", f"at most {most} on {usable_cores()} cores", args.num_workers, "give about one per core"
        )
    for flag, wanted in (
        ("surface_loss_points", args.surface_loss_points or 0),
        ("normal_points", args.normal_points if args.normal_weight else 0),
    ):
        if wanted > args.point_cloud_size:
            raise InputError(
                f"--{flag}", "at most --point_cloud_size", f"{wanted} of {args.point_cloud_size}", "lower it"
            )
    if args.optimizer == "muon" and args.shard == "optimizer":
        raise InputError.because("--shard optimizer", "Muon's momentum cannot be sharded", "leave out one of them")
    if args.init_from and args.resume:
        raise InputError.because(
            "",
            "--init_from and --resume exclude each other",
            "--resume continues a run, --init_from starts a new one with its weights",
        )
    if args.warmup_epochs >= args.epochs and args.warmup_epochs:
        raise InputError("--warmup_epochs", f"fewer than --epochs {args.epochs}", f"{args.warmup_epochs:g}", "lower it")


def _check_answers(args):
    if not args.observe:
        raise InputError.because(
            "--answer_noise", "without --observe all of the heart is seen, and there is one answer", "give --observe"
        )
    if args.class_outputs != "logits":
        raise InputError.because(
            f"--class_outputs {args.class_outputs}", "--answer_noise has no loss for class distances", "leave one out"
        )
    wanted = [name for name in losses_of(args.network, args.class_outputs) if name not in OF_ANSWERS]
    wanted = [f"--{name}_weight" for name in wanted if getattr(args, f"{name}_weight")]
    if wanted:
        raise InputError.because(wanted[0], "--answer_noise has no such loss", f"leave out {' and '.join(wanted)}")


def _check_shape_model(args):
    if not args.observe:
        raise InputError.because(
            "--shape_model",
            "without --observe all of the heart is seen, and there is nothing to propose",
            "give --observe",
        )
    if not args.anchors or parse_model_name(args.model)["query_type"] != "point":
        raise InputError.because(
            "--shape_model",
            f"proposals are points among which latents are chosen, which {args.model} "
            f"{'has no places for' if not args.anchors else 'does not do'}",
            "give --anchors and a point_vec... model, or leave it out",
        )


def _check_latents(args):
    model = parse_model_name(args.model)
    point_queries, num_latents = model["query_type"] == "point", model["num_latents"]
    if point_queries and num_latents > args.point_cloud_size:
        raise InputError(
            "--point_cloud_size",
            f"at least the {num_latents} latents of {args.model}, which are chosen among the points",
            f"{args.point_cloud_size}",
            "raise it",
        )
    if args.early_latents and not point_queries:
        raise InputError.because(
            "--early_latents",
            f"the {num_latents} queries of {args.model} are learned, their number is fixed",
            "leave it out, or choose a model with point queries (point_vec...)",
        )
    if args.early_latents and args.early_latents > num_latents:
        raise InputError(
            "--early_latents", f"at most the {num_latents} latents of {args.model}", args.early_latents, "lower it"
        )


def _check_network(args):
    """The options of the losses that a network does not have, where they are asked for."""
    if args.network != "joint" and args.class_outputs != "logits":
        raise InputError.because(
            "--class_outputs", f"--network {args.network} has a distance per class and nothing else", "leave it out"
        )
    used = losses_of(args.network, args.class_outputs)
    for name, weight in DEFAULT_WEIGHTS.items():
        if name not in used and not weight and getattr(args, f"{name}_weight"):
            raise InputError.because(f"--{name}_weight", f"{network_words(args)} has no such loss", "leave it out")


def network_words(args: argparse.Namespace) -> str:
    """The kind of network, as the flag that chose it."""
    return f"--network {args.network}" if args.network != "joint" else f"--class_outputs {args.class_outputs}"


def without_effect(args: argparse.Namespace) -> list[str]:
    """Flags that were given another value than their default, and have no effect with this network."""
    used, parser = losses_of(args.network, args.class_outputs), build_parser()
    options = [f"{name}_weight" for name in DEFAULT_WEIGHTS if name not in used]
    options += ["class_loss"] * ("class" not in used)
    options += ["class_distance_clip"] * (not {"class_distance", "class_near"} & set(used))
    options += ["fps_class_gap", "fps_density"] * (args.network != "joint")
    return [name for name in options if getattr(args, name) != parser.get_default(name)]
