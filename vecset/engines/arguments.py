"""The flags of vecset/main_ae.py, each with its unit and default, grouped by purpose.

Checks that need several of them are in engines/argument_checks.py. Nothing here needs torch: --help comes at once.
"""

import argparse

from vecset.common.arguments import CommandParser, count, number, user_path_text
from vecset.common.cores import usable_cores
from vecset.items.observation import CUT_SHARE, GROUPS, MOST_CLASSES, MOST_FEW
from vecset.models.options import CLASS_OUTPUTS, EXTENSIONS, NETWORKS
from vecset.weights.parts import PARTS

DEFAULT_WEIGHTS = {
    "vol": 1.0,
    "near": 10.0,
    "surface": 10.0,
    "eikonal": 0.001,
    "class": 1.0,
    "kl": 0.001,
    "normal": 0.0,
    "balanced": 0.0,
    "truncated": 0.0,
    "class_distance": 10.0,
    "class_near": 10.0,
    "class_far": 1.0,
}  # of the losses (losses.py)
CLASS_LOSSES = ("bce", "softmax")
WAIT_MINUTES = 10  # at the start: imports over a slow network take minutes on some nodes and seconds on others

# flags that are handed on by name
# but for those that follow from other flags: from --observe, and from the file of --shape_model
MODEL_OPTIONS = tuple(name for name in EXTENSIONS if name not in ("states", "shape_model", "fit_at_queries"))
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


def dataset_weights(text: str) -> dict[str, float]:
    """The value of --dataset_weights, {name: weight}. As the type of an option."""
    pairs = [part.rpartition("=")[::2] for part in text.split(",")]
    try:
        weights = {name.strip(): float(weight) for name, weight in pairs}
    except ValueError:
        weights = {}
    if len(weights) < len(pairs) or not all(name and 0 < weight <= 1000 for name, weight in weights.items()):
        raise argparse.ArgumentTypeError(f"expected weights above 0, to 1000, as A=1,B=8, found {text!r}")
    return weights


def build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog="main_ae.py", description=DESCRIPTION, formatter_class=_Help)
    add = parser.add_argument_group("data").add_argument
    add("--data_path", type=user_path_text, required=True, metavar="DIR", help="folder of the case files")
    add("--csv_dir", type=user_path_text, metavar="DIR", help="folder of train.csv and val.csv (default: --data_path)")
    add("--fold", type=int, metavar="K", help="read train_foldK.csv and val_foldK.csv (default: train.csv, val.csv)")
    add(
        "--classes",
        type=count(1),
        metavar="C",
        help="class count that every case must have (default: as the first case)",
    )
    add(
        "--dataset_weights",
        type=dataset_weights,
        metavar="A=1,B=8",
        help="how often each heart of a data set is drawn per epoch, where the CSVs list several (default: as "
        "splits.json says, there 1 where --datasets gave no weight)",
    )
    add("--point_cloud_size", type=count(1), default=8192, help="surface points per case, the encoder's input")
    add(
        "--surface_loss_points",
        type=count(1),
        metavar="S",
        help="number of surface points decoded for the surface and class losses (default: all)",
    )
    for group in ("near", "inside", "outside"):
        add(f"--{group}_points", type=count(0), default=1024, help=f"query points per case from the group '{group}'")
    add(
        "--eikonal_points",
        type=count(1),
        default=1024,
        help="number of query points at which the Eikonal loss is computed",
    )
    add(
        "--balance",
        type=number(0, 1),
        default=0.0,
        help="0: points are drawn as the file has them; 1: equal shares of points for every class present; or between",
    )
    add(
        "--augment_rotation",
        type=number(0, 180),
        default=0.0,
        metavar="DEG",
        help="random rotation, up to this many degrees",
    )
    add(
        "--augment_scale",
        type=number(0, 0.5),
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
        "--shape_model",
        type=user_path_text,
        metavar="FILE",
        help="with --observe: a file of python -m vecset.shape_model; the encoder is shown what this linear model "
        "proposes for what is not seen (needs --anchors and a point_vec... model)",
    )
    add(
        "--answer_noise",
        type=count(0),
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
        type=count(0),
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
        type=number(0),
        default=0.0,
        metavar="UNIT",
        help="point queries: points of two classes count as at least so far apart when latents are chosen among the "
        "surface points (2: every structure is covered on its own)",
    )
    add("--class_gap", dest="fps_class_gap", type=number(0), default=argparse.SUPPRESS, help=argparse.SUPPRESS)
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
        type=count(1),
        metavar="M",
        help="point queries: number of latents in the first epochs, to make their steps cheaper (see --early_share)",
    )
    add(
        "--early_share",
        type=number(0, 1),
        default=0.75,
        metavar="SHARE",
        help="share of the epochs that use --early_latents; later epochs and every validation use all latents",
    )
    add("--decoder_layers", type=count(0), default=0, help="feed-forward blocks behind the decoder's attention")
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
        add(f"--{name}_weight", type=number(0), default=weight, help=meaning[name])
    add(
        "--normal_points",
        type=count(1),
        default=512,
        help="number of surface points at which the normal loss is computed",
    )
    add(
        "--class_loss",
        choices=CLASS_LOSSES,
        default="bce",
        help="bce: binary cross-entropy per class; softmax: cross-entropy over background and classes",
    )
    add(
        "--truncation",
        type=number(1e-6),
        default=0.1,
        metavar="UNIT",
        help="half width (unit) of the band of the truncated loss",
    )
    add(
        "--class_distance_clip",
        type=number(1e-6),
        default=0.1,
        metavar="UNIT",
        help="half width (unit) of the band of the losses of class distances",
    )

    add = parser.add_argument_group("optimisation").add_argument
    add("--batch_size", type=count(1), default=2, help="cases per rank and pass")
    add("--accum_iter", type=count(1), default=1, help="passes per optimizer step")
    add("--epochs", type=count(1), default=400, help="passes over the training cases")
    add(
        "--warmup_epochs",
        type=number(0),
        metavar="EPOCHS",
        help="epochs of linear warm-up, part of --epochs "
        f"(default: {WARMUP_EPOCHS}, or {WARMUP_SHARE:.0%} of --epochs where that is less)".replace("%", "%%"),
    )
    add(
        "--blr",
        type=number(0),
        default=1e-3,
        help="learning rate for 256 cases per step: lr = blr x cases per step / 256",
    )
    add("--lr", type=number(0), help="learning rate itself; replaces --blr")
    add("--min_lr", type=number(0), default=1e-6, help="learning rate at the end of the cosine")
    add(
        "--optimizer",
        choices=("adamw", "muon"),
        default="adamw",
        help="muon: Muon for the matrices inside the network, AdamW for the rest, at the same --lr",
    )
    add("--weight_decay", type=number(0), default=0.05, help="on matrices (not on biases, norms, embeddings)")
    add("--beta2", type=number(0, 1), default=0.999, help="AdamW's second beta")
    add("--clip_grad", type=number(0), default=1.0, help="largest gradient norm; 0: no clipping")
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
    add("--max_steps", type=count(1), metavar="N", help="stop, evaluate and save after N optimizer steps in all")
    add("--max_minutes", type=number(0), metavar="MIN", help="stop, evaluate and save after this many minutes")

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
        type=number(0.01),
        default=WAIT_MINUTES,
        metavar="MIN",
        help="how long to wait at the start for the other processes that torchrun or srun has started",
    )

    add = parser.add_argument_group("validation").add_argument
    add("--eval_every", type=count(1), default=5, help="epochs between validations (the last epoch always has one)")
    add("--grid_size", type=count(2), default=64, help="points per axis of the grid over the unit cube for the Dice")

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
        "start at zero, so the distance is the same) or of this software, for the same structures or some of them; one "
        "in the output folder comes first",
    )
    add(
        "--freeze",
        nargs="+",
        choices=list(PARTS),
        default=[],
        metavar="PART",
        help=f"parts of the network ({', '.join(PARTS)}) that keep the weights of --init_from, but for what belongs to "
        "structures that these did not have (default: none)",
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
        type=number(0),
        default=10.0,
        metavar="MIN",
        help="save at least this often, in mid-epoch too (and after an epoch where that costs under 2 %% of the time)",
    )
    add("--print_every", type=count(1), default=20, help="optimizer steps between lines")
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
