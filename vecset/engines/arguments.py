"""The flags of vecset/main_ae.py, each with its unit and default, grouped by purpose, and checks that need several."""

import argparse

from vecset.common.arguments import CommandParser, user_path_text
from vecset.common.cores import usable_cores
from vecset.common.errors import InputError
from vecset.engines.distributed import WAIT_MINUTES
from vecset.engines.losses import CLASS_LOSSES, DEFAULT_WEIGHTS, OF_ANSWERS, losses_of
from vecset.engines.muon import require_muon
from vecset.items.observation import CUT_SHARE, GROUPS, MOST_CLASSES, MOST_FEW, parse_observe
from vecset.models.autoencoder import EXTENSIONS, NETWORKS, parse_model_name
from vecset.models.joint_network import CLASS_OUTPUTS

# flags that are handed on by name
MODEL_OPTIONS = tuple(name for name in EXTENSIONS if name != "states")  # which follows from --observe
LOSS_OPTIONS = ("class_loss", "truncation", "class_distance_clip")
# flags that decide the figures of a validation
EVALUATION_OPTIONS = (
    "model",
    "network",
    "class_outputs",
    "point_cloud_size",
    "surface_loss_points",
    "near_points",
    "inside_points",
    "outside_points",
    "eikonal_points",
    "normal_points",
    "balance",
    "grid_size",
    "seed",
    "batch_size",
    "observe",
    *LOSS_OPTIONS,
    *(f"{name}_weight" for name in DEFAULT_WEIGHTS),
)
WARMUP_EPOCHS, WARMUP_SHARE = 20, 0.05  # of Phase 1's 400 epochs these are the same

DESCRIPTION = """Trains the multi-label shape autoencoder on case files.

Start it with python, or with torchrun or srun for several GPUs or processes. Given the same --output_dir again, it
resumes; a finished run is reported. Exit codes: 0 done, 2 bad input, 3 a loss or gradient was not finite,
75 asked to stop by SIGTERM, SIGUSR1 or SIGHUP (saved; start it again to resume). Under torchrun the launcher's exit
code is 1 for all of the last three: OUTPUT_DIR/status.json says which it was."""


def parse_arguments(argv: list[str] | None = None, defaults: dict | None = None) -> argparse.Namespace:
    """The flags, with defaults that depend on other flags filled in. defaults: {name: value}, in place of the flags'
    own defaults."""
    parser = build_parser()
    parser.set_defaults(**defaults or {})
    args = parser.parse_args(argv)
    if args.warmup_epochs is None:
        args.warmup_epochs = min(WARMUP_EPOCHS, WARMUP_SHARE * args.epochs)
    return args


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
    if args.optimizer == "muon":
        require_muon()
        if args.shard == "optimizer":
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


def build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog="main_ae.py", description=DESCRIPTION, formatter_class=_Help)
    add = parser.add_argument_group("data").add_argument
    add("--data_path", type=user_path_text, required=True, metavar="DIR", help="folder of the case files")
    add("--csv_dir", type=user_path_text, metavar="DIR", help="folder of train.csv and val.csv (default: --data_path)")
    add("--fold", type=int, metavar="K", help="read train_foldK.csv and val_foldK.csv (default: train.csv, val.csv)")
    add(
        "--classes",
        type=_count(1),
        metavar="C",
        help="class count that every case must have (default: as the first case)",
    )
    add("--point_cloud_size", type=_count(1), default=8192, help="surface points per case, the encoder's input")
    add(
        "--surface_loss_points",
        type=_count(1),
        metavar="S",
        help="number of surface points decoded for the surface and class losses (default: all)",
    )
    for group in ("near", "inside", "outside"):
        add(f"--{group}_points", type=_count(0), default=1024, help=f"query points per case from the group '{group}'")
    add(
        "--eikonal_points",
        type=_count(1),
        default=1024,
        help="number of query points at which the Eikonal loss is computed",
    )
    add(
        "--balance",
        type=_number(0, 1),
        default=0.0,
        help="0: points are drawn as the file has them; 1: equal shares of points for every class present; or between",
    )
    add(
        "--augment_rotation",
        type=_number(0, 180),
        default=0.0,
        metavar="DEG",
        help="random rotation, up to this many degrees",
    )
    add(
        "--augment_scale",
        type=_number(0, 0.5),
        default=0.0,
        metavar="FRACTION",
        help="random scaling by 1 +- this fraction",
    )
    add(
        "--observe",
        default="",
        metavar="KIND=PROBABILITY,...",
        help="completion: the encoder sees a part of the heart with these probabilities, else all of it; targets are "
        f"always whole. classes: all but 1 to {MOST_CLASSES} structures; {', '.join(GROUPS)}: all but these; cut: one "
        f"side of a plane, with {CUT_SHARE[0]:.0%} to {CUT_SHARE[1]:.0%} of the heart beyond it; slices: planes alone; "
        f"few: 1 to {MOST_FEW} structures alone (default: all is seen)".replace("%", "%%"),
    )
    add(
        "--answer_noise",
        type=_count(0),
        default=0,
        metavar="NUMBERS",
        help="with --observe: so many random numbers steer what does not follow from what is seen, so that "
        "reconstruct.py --samples can give several answers; a step takes twice as long. 0: one answer",
    )
    add(
        "--cache",
        choices=("memory", "none"),
        default="memory",
        help="memory: read every case once (about 3 MB each, shared by the workers of a rank); none: read at every use",
    )
    add(
        "--num_workers",
        type=_count(0),
        default=min(2, usable_cores()),
        help="loader processes per rank; 0: load in the training process",
    )

    add = parser.add_argument_group("model").add_argument
    add(
        "--model",
        default="learnable_vec1024x16_dim1024_depth24_nb",
        help="{learnable|point}_vec{M}[x{L}]_dim{D}_depth{K}[_sdf][_nb|_kl]: M latents of L numbers, width D, K layers",
    )
    add(
        "--anchors",
        action="store_true",
        help="every latent has a place in space, and attention depends on the distance to it",
    )
    add(
        "--rotary",
        action="store_true",
        help="with --anchors: attention depends on relative places only (rotary embedding)",
    )
    add(
        "--fps_class_gap",
        type=_number(0),
        default=0.0,
        metavar="UNIT",
        help="point queries: points of two classes count as at least so far apart when latents are chosen among the "
        "surface points (2: every structure is covered on its own)",
    )
    add("--class_gap", dest="fps_class_gap", type=_number(0), default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    add(
        "--fps_density",
        default="",
        metavar="CLASS:FACTOR,...",
        help="with --fps_class_gap: latents lie FACTOR times as close on this class (for thin vessels); auto: by "
        "the thickness of the classes in the training cases (default: none)",
    )
    add("--latent_density", dest="fps_density", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    add(
        "--early_latents",
        type=_count(1),
        metavar="M",
        help="point queries: number of latents in the first epochs, to make their steps cheaper (see --early_share)",
    )
    add(
        "--early_share",
        type=_number(0, 1),
        default=0.75,
        metavar="SHARE",
        help="share of the epochs that use --early_latents; later epochs and every validation use all latents",
    )
    add("--decoder_layers", type=_count(0), default=0, help="feed-forward blocks behind the decoder's attention")
    add(
        "--network",
        choices=NETWORKS,
        default="joint",
        help="joint: all structures in one field; per_class: one field per structure, each from its own points alone, "
        "by one shared network with M / C latents per class; parts: the same, but every second layer sees the latents "
        "of all classes (all but joint need cases of prepare_data.py --class_distances)",
    )
    add(
        "--class_outputs",
        choices=CLASS_OUTPUTS,
        default="logits",
        help="of the joint network, beside the union's distance: logits: a logit per class; distances: the signed "
        "distance to each class, of which the smallest gives the label; both: logits, which give the label, and "
        "distances (all but logits need cases of prepare_data.py --class_distances)",
    )

    add = parser.add_argument_group("losses (weights; 0 leaves a loss out)").add_argument
    meaning = {
        "vol": "L1 distance (unit) at inside and outside points",
        "near": "L1 distance (unit) at near points",
        "surface": "L1 distance (unit) at surface points",
        "eikonal": "(|gradient| - 1)^2",
        "class": "class logits",
        "kl": "KL divergence, for _kl models",
        "normal": "|gradient - outward normal|^2 at points of the outer surface (--normal_points)",
        "balanced": "class-balanced binary cross-entropy: points inside and outside a class have half the weight each",
        "truncated": "L1 distance (unit) at query points within a band (--truncation)",
        "class_distance": "L1 distance (unit) to the classes within a band (--class_distance_clip), for "
        "--class_outputs distances or both",
        "class_near": "L1 distance (unit) to a class at points closer to it than --class_distance_clip, for "
        "--network per_class or parts",
        "class_far": "the same at all other points",
    }
    for name, weight in DEFAULT_WEIGHTS.items():
        add(f"--{name}_weight", type=_number(0), default=weight, help=meaning[name])
    add(
        "--normal_points",
        type=_count(1),
        default=512,
        help="number of surface points at which the normal loss is computed",
    )
    add(
        "--class_loss",
        choices=tuple(CLASS_LOSSES),
        default="bce",
        help="bce: binary cross-entropy per class; softmax: cross-entropy over background and classes",
    )
    add(
        "--truncation",
        type=_number(1e-6),
        default=0.1,
        metavar="UNIT",
        help="half width (unit) of the band of the truncated loss",
    )
    add(
        "--class_distance_clip",
        type=_number(1e-6),
        default=0.1,
        metavar="UNIT",
        help="half width (unit) of the band of the losses of class distances",
    )

    add = parser.add_argument_group("optimisation").add_argument
    add("--batch_size", type=_count(1), default=2, help="cases per rank and pass")
    add("--accum_iter", type=_count(1), default=1, help="passes per optimizer step")
    add("--epochs", type=_count(1), default=400, help="passes over the training cases")
    add(
        "--warmup_epochs",
        type=_number(0),
        metavar="EPOCHS",
        help="epochs of linear warm-up, part of --epochs "
        f"(default: {WARMUP_EPOCHS}, or {WARMUP_SHARE:.0%} of --epochs where that is less)".replace("%", "%%"),
    )
    add(
        "--blr",
        type=_number(0),
        default=1e-3,
        help="learning rate for 256 cases per step: lr = blr x cases per step / 256",
    )
    add("--lr", type=_number(0), help="learning rate itself; replaces --blr")
    add("--min_lr", type=_number(0), default=1e-6, help="learning rate at the end of the cosine")
    add(
        "--optimizer",
        choices=("adamw", "muon"),
        default="adamw",
        help="muon: Muon for the matrices inside the network, AdamW for the rest, at the same --lr; needs torch 2.9",
    )
    add("--weight_decay", type=_number(0), default=0.05, help="on matrices (not on biases, norms, embeddings)")
    add("--beta2", type=_number(0, 1), default=0.999, help="AdamW's second beta")
    add("--clip_grad", type=_number(0), default=1.0, help="largest gradient norm; 0: no clipping")
    add(
        "--precision",
        choices=("auto", "bf16", "tf32", "fp32"),
        default="auto",
        help="of the network (auto: bf16 on CUDA, float32 on a CPU, where bf16 is faster if the CPU has avx512_bf16 or "
        "amx_bf16); losses and the Eikonal decode are always float32 (with tf32 the decode's products are rounded as "
        "the network's are)",
    )
    add(
        "--compile",
        action="store_true",
        help="torch.compile the encoder's attention and the latent stack (takes minutes; needs a C++ compiler)",
    )
    add(
        "--checkpoint_activations",
        action="store_true",
        help="compute activations again in the backward pass: less memory, more time, the same numbers",
    )
    add("--seed", type=int, default=0, help="seed of initial weights and all draws")
    add("--max_steps", type=_count(1), metavar="N", help="stop, evaluate and save after N optimizer steps in all")
    add("--max_minutes", type=_number(0), metavar="MIN", help="stop, evaluate and save after this many minutes")

    add = parser.add_argument_group("several processes").add_argument
    add(
        "--shard",
        choices=("none", "optimizer"),
        default="none",
        help="optimizer: each rank keeps a shard of AdamW's moments (8 bytes per parameter; ZeRO stage 1); the numbers "
        "are the same, and checkpoints load on any number of ranks",
    )
    add(
        "--compress_gradients",
        choices=("none", "bf16"),
        default="none",
        help="bf16: gradients are sent between ranks in bfloat16, half the bytes, rounded to 3 digits",
    )

    add(
        "--wait_for_ranks",
        type=_number(0.01),
        default=WAIT_MINUTES,
        metavar="MIN",
        help="how long to wait at the start for the other processes that torchrun or srun has started",
    )

    add = parser.add_argument_group("validation").add_argument
    add("--eval_every", type=_count(1), default=5, help="epochs between validations (the last epoch always has one)")
    add("--grid_size", type=_count(2), default=64, help="points per axis of the grid over the unit cube for the Dice")

    add = parser.add_argument_group("run").add_argument
    add(
        "--output_dir",
        type=user_path_text,
        required=True,
        metavar="DIR",
        help="folder of checkpoints, log.txt and status.json; given again, the run resumes",
    )
    add(
        "--resume",
        type=user_path_text,
        metavar="FILE",
        help="checkpoint to resume from (a checkpoint in the output folder comes first)",
    )
    add(
        "--init_from",
        type=user_path_text,
        metavar="FILE",
        help="weights to start a new run from: a checkpoint of the public VecSetX release (new inputs and outputs "
        "start at zero, so the distance is the same) or of this software; one in the output folder comes first",
    )
    add(
        "--eval",
        action="store_true",
        help="only evaluate --resume, or the best checkpoint of --output_dir; points, losses, grid and seed are those "
        "that it was trained with, where no flag says otherwise",
    )
    add(
        "--dry_run",
        action="store_true",
        help="check data, model, memory and one step, write and read one checkpoint, and leave nothing behind",
    )
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add(
        "--save_every_minutes",
        type=_number(0),
        default=10.0,
        metavar="MIN",
        help="save at least this often, in mid-epoch too (and after an epoch where that costs under 2 %% of the time)",
    )
    add("--print_every", type=_count(1), default=20, help="optimizer steps between lines")
    add("--log_dir", type=user_path_text, metavar="DIR", help="write tensorboard files there (needs tensorboardX)")
    add(
        "--wandb",
        nargs="?",
        const="online",
        choices=("disabled", "offline", "online"),
        default="disabled",
        help="log to Weights & Biases; without a value: online; the key comes from the environment (WANDB_API_KEY)",
    )
    add("--wandb_project", default="vecsetx-heart", help="project in Weights & Biases")
    add("--wandb_name", help="the run's name there (default: the output folder's)")
    return parser


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the description's lines, and adds the default where there is one."""

    def _get_help_string(self, action):
        if action.default in (None, False) or "(default" in (action.help or ""):
            return action.help
        return super()._get_help_string(action)


def _count(smallest):
    def count(text):
        value = int(text)
        if value < smallest:
            raise argparse.ArgumentTypeError(f"{value}: want a whole number of at least {smallest}")
        return value

    return count


def _number(smallest, largest=float("inf")):
    def number(text):
        value = float(text)
        if not smallest <= value <= largest:
            raise argparse.ArgumentTypeError(f"{value:g}: want a number from {smallest:g} to {largest:g}")
        return value

    return number
