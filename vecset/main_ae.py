"""Training entry: arguments, set-up, one run. `python vecset/main_ae.py --help`, or the same under torchrun.

Structure after facebookresearch/mae: this file sets up, engines/engine_ae.py is the loop, models/ is the network.
"""

import sys
import time
from contextlib import suppress
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[1])
# the repository root in place of this script's folder, whose data/ and utils/ would shadow other packages
if sys.path and Path(sys.path[0] or ".").resolve() == Path(__file__).resolve().parent:
    sys.path[0] = ROOT
elif ROOT not in sys.path:
    sys.path.insert(0, ROOT)

import fcntl  # noqa: E402
import json  # noqa: E402

import torch  # noqa: E402

from vecset.common.atomic import remove_leftovers, require_writable, write_text  # noqa: E402
from vecset.common.errors import EXIT_STOPPED, InputError, run_command  # noqa: E402
from vecset.data.dataset import Augmentation, CaseDataset, PointCounts, iterate_batches  # noqa: E402
from vecset.data.epoch_plan import EpochPlan  # noqa: E402
from vecset.data.listed_case import check_disjoint, read_split  # noqa: E402
from vecset.data.thickness import fps_density  # noqa: E402
from vecset.engines.arguments import EVALUATION_OPTIONS, LOSS_OPTIONS, MODEL_OPTIONS, parse_arguments  # noqa: E402
from vecset.engines.distributed import (  # noqa: E402
    environment_rank,
    gather_objects,
    lost_contact,
    start_ranks,
    stop_ranks,
    told_once,
    wait_for_all,
    wrap_model,
)
from vecset.engines.logging import RunLog, format_values, peak_memory_gb, say, short_time  # noqa: E402
from vecset.engines.loop import (  # noqa: E402
    Evaluator,
    NotFiniteError,
    StepOptions,
    new_monitor,
    train_one_epoch,
)
from vecset.engines.losses import DEFAULT_WEIGHTS  # noqa: E402
from vecset.engines.optimizer import build_optimizer, gather_state  # noqa: E402
from vecset.engines.run import TrainingRun, starting_point  # noqa: E402
from vecset.engines.schedule import scaled_rate  # noqa: E402
from vecset.engines.stop import EXIT_NOT_FINITE, StopRequest  # noqa: E402
from vecset.models.autoencoder import build_model, parse_model_name  # noqa: E402
from vecset.models.checkpoint import BEST, LAST, load_checkpoint, model_from_checkpoint, save_checkpoint  # noqa: E402
from vecset.models.double_backward import check_double_backward  # noqa: E402
from vecset.models.warm_start import load_initial_weights  # noqa: E402


def read_splits(args):
    """(training, validation) lists of ListedCase, checked against each other."""
    folder = Path(args.csv_dir or args.data_path)
    suffix = "" if args.fold is None else f"_fold{args.fold}"
    training = read_split(folder / f"train{suffix}.csv", args.data_path, args.classes)
    validation = read_split(
        folder / f"val{suffix}.csv", args.data_path, training[0].num_classes, f"train{suffix}.csv has"
    )
    if not overlap_is_meant(folder):
        check_disjoint(training, validation, folder)
    return training, validation


def overlap_is_meant(folder):
    """Whether the splits' own record (splits.json) says that training and validation are the same hearts on purpose, as
    when there is only one."""
    try:
        return bool(json.loads((folder / "splits.json").read_text(encoding="utf-8")).get("overfit"))
    except (OSError, ValueError, AttributeError):
        return False


def annotated_anywhere(cases):
    """C bools: the class was annotated in one of the cases at least."""
    return [any(column) for column in zip(*(case.annotated for case in cases))]


def make_dataset(args, cases, training):
    code = parse_model_name(args.model)
    return CaseDataset(
        cases,
        PointCounts(
            args.point_cloud_size,
            args.near_points,
            args.inside_points,
            args.outside_points,
            decoded_surface=args.surface_loss_points,
            eikonal=args.eikonal_points if args.eikonal_weight else 0,
            normals=args.normal_points if args.normal_weight else 0,
        ),
        args.seed,
        training,
        balance=args.balance,
        augmentation=Augmentation(args.augment_rotation, args.augment_scale),
        noise_shape=(code["num_latents"], code["code_dim"]) if code["bottleneck"] == "kl" else None,
        cache=args.cache,
    )


def step_options(args, device):
    """StepOptions from the flags; sets torch's own precision switches too."""
    precision = args.precision
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" else "fp32"
    if precision != "fp32" and device.type != "cuda":
        raise InputError("--precision", "auto or fp32 on a CPU", precision, "leave it out")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    return StepOptions(
        {name: getattr(args, f"{name}_weight") for name in DEFAULT_WEIGHTS},
        {name: getattr(args, name) for name in LOSS_OPTIONS},
        precision == "bf16",
        args.clip_grad,
    )


def check_arguments(args):
    """What no single flag can check for itself."""
    if args.eikonal_weight and args.eikonal_points > args.near_points + args.inside_points + args.outside_points:
        raise InputError(
            "--eikonal_points",
            "at most the number of query points",
            f"{args.eikonal_points} of {args.near_points + args.inside_points + args.outside_points}",
            "lower it or ask for more query points",
        )
    groups = ("near_points", "inside_points", "outside_points")
    for loss, needs in (("vol", groups[1:]), ("near", groups[:1]), ("truncated", groups)):
        if getattr(args, f"{loss}_weight") and not any(getattr(args, flag) for flag in needs):
            raise InputError(
                f"--{loss}_weight",
                f"points that the loss is taken at (--{' or --'.join(needs)})",
                "none",
                f"give some, or --{loss}_weight 0",
            )
    model = parse_model_name(args.model)
    if model["query_type"] == "point" and model["num_latents"] > args.point_cloud_size:
        raise InputError(
            "--point_cloud_size",
            f"at least the {model['num_latents']} latents of {args.model}, which are chosen among the points",
            f"{args.point_cloud_size}",
            "raise it",
        )
    if args.early_latents and not (model["query_type"] == "point" and args.early_latents <= model["num_latents"]):
        raise InputError(
            "--early_latents",
            "a model with point queries (point_vec...) of at least so many latents",
            f"{args.early_latents} with {args.model}",
            "lower it, or leave it out",
        )
    if args.surface_loss_points and args.surface_loss_points > args.point_cloud_size:
        raise InputError(
            "--surface_loss_points",
            "at most --point_cloud_size",
            f"{args.surface_loss_points} of {args.point_cloud_size}",
            "lower it",
        )
    if args.normal_weight and args.normal_points > args.point_cloud_size:
        raise InputError(
            "--normal_points",
            "at most --point_cloud_size",
            f"{args.normal_points} of {args.point_cloud_size}",
            "lower it",
        )
    if args.init_from and args.resume:
        raise InputError(
            "--init_from",
            "no --resume beside it",
            "both",
            "--resume goes on with a run, --init_from starts a new one with its weights: give one of them",
        )
    if args.warmup_epochs >= args.epochs and args.warmup_epochs:
        raise InputError("--warmup_epochs", f"fewer than --epochs {args.epochs}", f"{args.warmup_epochs:g}", "lower it")


def model_options(args, training):
    """The network's options by name, with what `auto` means for these training cases. A run that goes on keeps what it
    began with, also where cases were added since."""
    options = {name: getattr(args, name) for name in MODEL_OPTIONS}
    if options["fps_density"] == "auto":
        last = next((p for p in (Path(args.output_dir) / LAST, Path(args.resume or "")) if p.is_file()), None)
        options["fps_density"] = (
            load_checkpoint(last)["model_config"]["fps_density"]
            if last
            else fps_density(training, training[0].num_classes)
        )
    return options


def set_up(args, ranks, stop):
    """Everything that training needs, on this rank."""
    training, validation = read_splits(args)
    class_names = training[0].class_names
    model_config = {"name": args.model, "num_classes": len(class_names), **model_options(args, training)}
    if args.eikonal_weight or args.normal_weight:
        check_double_backward(ranks.device)
    plan = EpochPlan(len(training), args.batch_size, args.accum_iter, args.seed, ranks.rank, ranks.size)
    torch.manual_seed(args.seed)
    model = build_model(**model_config)
    if args.init_from and not (Path(args.output_dir) / LAST).is_file():
        said = load_initial_weights(model, model_config, args.init_from)
        if ranks.main:
            say(said)
    model.to(ranks.device)
    model.checkpoint_activations(args.checkpoint_activations)
    if args.compile:
        model.compile_blocks()
    model.set_known_classes(annotated_anywhere(training))
    options = step_options(args, ranks.device)
    lr = args.lr if args.lr is not None else scaled_rate(args.blr, plan.per_step)
    dataset, val_dataset = make_dataset(args, training, True), make_dataset(args, validation, False)
    evaluator = Evaluator(val_dataset, ranks, options, class_names, args.batch_size, args.grid_size)
    optimizer = build_optimizer(
        model, lr, args.weight_decay, args.beta2, ranks.size if args.shard == "optimizer" else 1
    )
    return TrainingRun(
        args,
        ranks,
        stop,
        model,
        wrap_model(model, ranks, args.compress_gradients),
        optimizer,
        dataset,
        plan,
        evaluator,
        options,
        model_config,
        class_names,
        lr,
    )


def describe(run):
    parameters = sum(p.numel() for p in run.model.parameters())
    say(
        f"{run.args.model}: {parameters / 1e6:.2f} M parameters, {len(run.class_names)} classes; {len(run.dataset)} "
        f"training and {len(run.evaluator.dataset)} validation cases; {run.ranks.size} x {run.ranks.device.type}, "
        f"{run.plan.per_step} cases per step, {run.plan.steps_per_epoch} steps per epoch, lr {run.lr:.3g}, torch "
        f"{torch.__version__}"
    )


def train(args, ranks, stop):
    if args.dry_run:
        return dry_run(args, ranks, stop)
    with told_once(ranks.rank):
        path, checkpoint = starting_point(args, ranks)
        run = set_up(args, ranks, stop)
        if checkpoint:
            run.go_on_from(checkpoint, path)
    if run.done:
        if ranks.main:
            say(f"{path}: {run.done}")
        return 0
    with told_once(ranks.rank):
        lock = lock_folder(args.output_dir, ranks)
    log = None
    if ranks.main:
        remove_leftovers(args.output_dir)
        describe(run)
        if checkpoint:
            say(f"going on from {path}: epoch {run.epoch + 1}, step {run.step}, global step {run.global_step}")
        log = RunLog(
            args.output_dir,
            vars(args),
            run.global_step,
            args.log_dir,
            args.wandb,
            args.wandb_project,
            args.wandb_name,
            validates_first=run.step == run.plan.steps_per_epoch,
        )
    load_cases(run)
    try:
        return run.train(log)
    finally:
        if log:
            log.close()
        if lock:
            lock.close()


def lock_folder(folder, ranks):
    """Makes the output folder and keeps it for this run: two runs would overwrite each other's checkpoints in turn. The
    lock ends with rank 0's process, however that ends; its loader processes do not inherit it. None on other ranks and
    on file systems without locks."""
    require_writable(Path(folder))
    handle, busy = None, False
    if ranks.main:
        handle = open(Path(folder) / ".lock", "w", encoding="utf-8")
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            busy = True
        except OSError:
            pass
    if gather_objects(busy, ranks)[0]:
        raise InputError(
            f"--output_dir {folder}",
            "no other run in this folder",
            "one that is at work",
            "wait for it, or give another --output_dir",
        )
    return handle


def load_cases(run):
    """Fills the caches before any worker process is forked. The truths for validation are read in any case: one that is
    missing must not come out after five epochs."""
    began = time.monotonic()
    if run.args.cache == "memory":
        run.dataset.load()
        run.evaluator.dataset.load(run.evaluator.own)
    for index in run.evaluator.own:
        run.evaluator.truth(index)
    if run.ranks.main:
        say(f"read the cases in {short_time(time.monotonic() - began)}")


def evaluated_checkpoint(args):
    """The file that --eval looks at."""
    folder = Path(args.output_dir)
    path = (
        Path(args.resume) if args.resume else next((folder / n for n in (BEST, LAST) if (folder / n).is_file()), None)
    )
    if path is None:
        raise InputError("--eval", f"--resume FILE or a checkpoint in {folder}", "neither", "give --resume")
    return path


def as_trained(argv, args):
    """The arguments of --eval again: what decides its figures is by default as the checkpoint was trained with."""
    trained = load_checkpoint(evaluated_checkpoint(args))["args"]
    return parse_arguments(argv, {name: trained[name] for name in EVALUATION_OPTIONS if name in trained})


def evaluate_only(args, ranks, stop):
    """--eval: one evaluation, printed and written to OUTPUT_DIR/eval.json."""
    folder = Path(args.output_dir)
    with told_once(ranks.rank):
        path = evaluated_checkpoint(args)
        _, validation = read_splits(args)
        checkpoint = load_checkpoint(path, validation[0].num_classes)
    evaluator = Evaluator(
        make_dataset(args, validation, False),
        ranks,
        step_options(args, ranks.device),
        checkpoint["class_names"],
        args.batch_size,
        args.grid_size,
        args.num_workers,
    )
    results = evaluator.evaluate(model_from_checkpoint(checkpoint, ranks.device, path), lambda: stop.asked)
    if results is None:
        return EXIT_STOPPED
    results.pop("slices")
    if ranks.main:
        per_class = results["per_class"]
        numbers = {k: v for k, v in results.items() if isinstance(v, float)}
        say(f"{path} (epoch {checkpoint['epoch']}): {format_values(numbers)}")
        for name, row in per_class.items():
            dice = "     -" if row["dice"] is None else f"{row['dice']:6.3f}"
            say(
                f"  {name:12s} dice {dice}  cases {row['cases']}, absent {row['absent']}, missed {row['missed']}, "
                f"invented {row['invented']}"
            )
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "eval.json", json.dumps({"checkpoint": str(path), **results}, indent=1) + "\n")
    return 0


def dry_run(args, ranks, stop):
    """--dry_run: reads every case, takes one optimizer step, evaluates one case, writes and reads one checkpoint."""
    began = time.monotonic()
    with told_once(ranks.rank):
        run = set_up(args, ranks, stop)
    if ranks.main:
        describe(run)
    for dataset in (run.dataset, run.evaluator.dataset):
        cache, dataset.cache = dataset.cache, "none"
        dataset.load(range(ranks.rank, len(dataset), ranks.size))
        dataset.cache = cache
    if ranks.main:
        say(f"all cases can be read ({short_time(time.monotonic() - began)})")
    keys = ([(0, i) for i in micro.indices] for micro in run.plan.micro_batches(0, 0))
    monitor = new_monitor(ranks)
    train_one_epoch(
        run.wrapped,
        iterate_batches(run.dataset, keys),
        run.plan,
        run.optimizer,
        lambda epoch: run.lr,
        run.step_options,
        len(run.class_names),
        0,
        0,
        monitor,
        lambda *position: True,
    )
    if monitor[1].first_bad_step() is not None:
        cases = ", ".join(run.dataset.cases[i].case_id for micro in run.plan.micro_batches(0, 0) for i in micro.indices)
        raise NotFiniteError(
            f"the first step is not finite (rank {ranks.rank}: cases {cases}: {format_values(monitor[1].bad_values())})"
        )
    losses = monitor[0].read()
    gather_state(run.optimizer)
    run.evaluator.own, run.evaluator.grid_size = run.evaluator.own[:1], min(args.grid_size, 32)
    run.evaluator.evaluate(run.model)
    if ranks.main:
        say(f"one step: {format_values(losses)}; peak memory {peak_memory_gb(ranks.device):.2f} GB")
        folder = Path(args.output_dir)
        made = [p for p in (folder, *folder.parents) if not p.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "dry-run.pth"
        try:
            save_checkpoint(path, run.checkpoint())
            load_checkpoint(path, len(run.class_names))
            say(f"checkpoint: {path.stat().st_size / 1e6:.1f} MB, written and read back")
        finally:
            for leftover in (path, path.with_suffix(".json")):
                leftover.unlink(missing_ok=True)
            for new in made:
                with suppress(OSError):
                    new.rmdir()
        say(f"dry run: all is well ({short_time(time.monotonic() - began)})")
    wait_for_all(ranks)
    return 0


def main(argv=None):
    args = parse_arguments(argv)
    try:
        with told_once(environment_rank()):
            if args.eval:
                args = as_trained(argv, args)
            check_arguments(args)
            ranks = start_ranks(args.device)
        with StopRequest() as stop:
            code = (evaluate_only if args.eval else train)(args, ranks, stop)
        stop_ranks(ranks)
        return code
    except NotFiniteError as error:
        if environment_rank() == 0:
            print(f"error: {error}", file=sys.stderr)
        else:
            time.sleep(2)
        return EXIT_NOT_FINITE
    except RuntimeError as error:
        if not lost_contact(error):
            raise
        print(
            f"error: rank {environment_rank()} lost contact with another process ({str(error).split(chr(10))[0]}); "
            "the cause is in what that one said: its 'error:' or traceback, or 'Signal' below",
            file=sys.stderr,
        )
        return 1


if __name__ == "__main__":
    sys.exit(run_command(main))
