"""From options to everything that a run works with: cases, network, optimizer, evaluator."""

import hashlib
from argparse import Namespace
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from vecset.common.errors import InputError
from vecset.common.user_files import read_json
from vecset.data.listed_case import SIDECAR, ListedCase, check_disjoint, read_split, table_of
from vecset.data.shape_model_file import read_shape_model, sizes_of
from vecset.data.thickness import fps_density
from vecset.engines.argument_checks import network_words, without_effect
from vecset.engines.arguments import LOSS_OPTIONS, MODEL_OPTIONS
from vecset.engines.compiling import require_compiler
from vecset.engines.distributed import Ranks, wrap_model
from vecset.engines.evaluation import Evaluator
from vecset.engines.logging import say
from vecset.engines.loop import StepOptions
from vecset.engines.losses import losses_of
from vecset.engines.optimizer import build_optimizer, scaled_rate
from vecset.engines.run_folder import load_start, starting_file
from vecset.imaging.class_names import check_same_names
from vecset.items.dataset import Augmentation, CaseDataset, PointCounts
from vecset.items.epoch_plan import EpochPlan
from vecset.items.observation import observation_draws
from vecset.models.autoencoder import EXTENSIONS, build_model, parse_model_name
from vecset.models.double_backward import check_double_backward
from vecset.models.joint_network import VecSetAutoencoder
from vecset.models.operations import card_peak, pass_operations
from vecset.models.part_network import require_one_each
from vecset.weights.freezing import Frozen
from vecset.weights.warm_start import load_initial_weights, new_classes, sources_of


@dataclass
class Training:
    """What a training run works with, on this rank.

    args            the options of main_ae.py
    model, wrapped  the network, and the same in DDP where there are several ranks
    dataset, plan   the training cases, and which of them are trained on when
    evaluator       validation
    model_config    arguments of `build_model`
    lr              the learning rate after warm-up
    """

    args: Namespace
    ranks: Ranks
    model: VecSetAutoencoder
    wrapped: torch.nn.Module
    optimizer: torch.optim.Optimizer
    dataset: CaseDataset
    plan: EpochPlan
    evaluator: Evaluator
    step_options: StepOptions
    model_config: dict
    class_names: list[str]
    lr: float
    sources: list[str]

    def latents_in(self, epoch: int) -> int | None:
        """How many latents the steps of `epoch` use, None for the network's own number."""
        return self.args.early_latents if epoch < self.args.early_share * self.args.epochs else None

    def step_operations(self, epoch: int, step: int) -> float | None:
        """Floating point operations of a step of `epoch`, all ranks together, as models/operations.py counts them."""
        plan, counts = self.plan, self.dataset.counts
        cases = min(plan.per_step, plan.num_draws - step * plan.per_step)
        passes = -(-cases // plan.per_pass) * plan.ranks
        decoded = counts.surface if counts.decoded_surface is None else min(counts.decoded_surface, counts.surface)
        one = pass_operations(
            self.model_config,
            cases / passes,
            counts.surface,
            sum(counts.queries.values()) + decoded,
            counts.eikonal + counts.normals,
            self.latents_in(epoch),
        )
        return None if one is None else passes * one

    def peak(self) -> float | None:
        """Operations per second that the cards of all ranks can do in the precision of training, where they are known.
        Ranks are taken to have the same card."""
        device = self.ranks.device
        if device.type != "cuda":
            return None
        tf32 = torch.backends.cuda.matmul.allow_tf32
        precision = "bf16" if self.step_options.bf16 else "tf32" if tf32 else "fp32"
        one = card_peak(torch.cuda.get_device_name(device), precision)
        return None if one is None else self.ranks.size * one

    @property
    def cases_digest(self) -> str:
        """16 hex digits that tell one list of training cases, and how often they are drawn, from another."""
        weights = [f"{name}={weight:g}" for name, weight in sorted((self.plan.weights or {}).items())]
        return hashlib.sha256("\n".join([*(c.case_id for c in self.dataset.cases), *weights]).encode()).hexdigest()[:16]

    def describe(self) -> str:
        parameters = sum(p.numel() for p in self.model.parameters())
        kind = network_words(self.args) if self.model.has_class_distances else ""
        model = ", ".join(filter(None, (" ".join((self.args.model, kind)).strip(), self.model.latent_words())))
        return (
            f"{model}: {parameters / 1e6:.2f} M parameters, {len(self.class_names)} classes; "
            f"{len(self.dataset)} training and {len(self.evaluator.dataset)} validation cases; {self.ranks.size} x "
            f"{self.ranks.device.type}, {self.plan.per_step} cases per step, {self.plan.steps_per_epoch} steps per "
            f"epoch, {'Muon, ' * (self.args.optimizer == 'muon')}lr {self.lr:.3g}, torch {torch.__version__}"
        )


def set_up(args: Namespace, ranks: Ranks) -> Training:
    """Reads the splits and builds all that training needs. Raises InputError where options and cases do not fit."""
    training, validation = read_splits(args)
    class_names = table_of(training, args.csv_dir or args.data_path)
    shape_arrays = read_training_shapes(args, class_names, validation)
    model_config = {"name": args.model, "num_classes": len(class_names), **model_options(args, training)}
    model_config["shape_model"] = sizes_of(shape_arrays) if shape_arrays else None
    model_config["fit_at_queries"] = bool(shape_arrays) and _fit_at_queries(args)
    idle = without_effect(args)
    if idle and ranks.main:
        say(f"note: without effect with {network_words(args)}: {', '.join(f'--{name}' for name in idle)}")
    if args.compile:
        require_compiler(ranks.device)
    if args.eikonal_weight or args.normal_weight:
        check_double_backward(ranks.device)
    weights = read_dataset_weights(args, training)
    plan = EpochPlan(
        len(training),
        args.batch_size,
        args.accum_iter,
        args.seed,
        ranks.rank,
        ranks.size,
        weights,
        [case.dataset for case in training],
    )
    if weights and ranks.main:
        hearts = Counter(case.dataset for case in training)
        told = ", ".join(f"{name} {hearts[name]} hearts x {weight:g}" for name, weight in weights.items())
        say(f"data sets: {told}: {plan.num_draws} draws per epoch")
    model = _model(args, ranks, model_config, training, validation, shape_arrays)
    frozen = Frozen(model, args.freeze, args.new_classes) if args.freeze else None
    options = step_options(args, ranks.device)
    lr = args.lr if args.lr is not None else scaled_rate(args.blr, plan.per_step)
    shards = ranks.size if args.shard == "optimizer" else 1
    optimizer = build_optimizer(model, lr, args.weight_decay, args.beta2, shards, args.optimizer)
    if frozen:
        frozen.attach(optimizer)
    return Training(
        args=args,
        ranks=ranks,
        model=model,
        wrapped=wrap_model(model, ranks, args.compress_gradients),
        optimizer=optimizer,
        dataset=make_dataset(args, training, training=True),
        plan=plan,
        evaluator=Evaluator(
            make_dataset(args, validation, training=False), ranks, options, class_names, args.batch_size, args.grid_size
        ),
        step_options=options,
        model_config=model_config,
        class_names=class_names,
        lr=lr,
        sources=_sources(args, training),
    )


def _sources(args, training):
    """Hashes of the label maps that the weights have been or will be trained on."""
    start = starting_file(args)
    before = load_start(start, args.output_dir).get("sources") if start else None
    if start is None and args.init_from:
        before = sources_of(args.init_from)
    return sorted({*(before or ()), *(case.fingerprint for case in training if case.fingerprint)})


def _fit_at_queries(args):
    """Whether the decoder is told the shape model's fit: in new runs; a run that goes on keeps the network it has."""
    start = starting_file(args)
    return start is None or bool(load_start(start, args.output_dir)["model_config"].get("fit_at_queries"))


def _model(args, ranks, model_config, training, validation, shape_arrays):
    torch.manual_seed(args.seed)
    model = build_model(**model_config)
    if shape_arrays:
        model.shape_model.load(shape_arrays)
    if args.early_latents and args.network != "joint":
        require_one_each("--early_latents", args.early_latents, model.num_classes)
    if args.freeze:
        args.new_classes = _new_classes(args, training[0].class_names)
    if args.init_from and starting_file(args) is None:
        message = load_initial_weights(model, model_config, args.init_from, training[0].class_names)
        if ranks.main:
            say(message)
            known = set(sources_of(args.init_from))
            shared = sorted(case.case_id for case in validation if case.fingerprint in known)
            if shared:
                say(
                    f"warning: {args.init_from} was trained on {len(shared)} of the validation cases, {shared[0]} for "
                    "example: figures of these are of training"
                )
    model.to(ranks.device)
    model.checkpoint_activations(args.checkpoint_activations)
    if args.compile:
        model.compile_blocks()
    model.set_known_classes([any(column) for column in zip(*(case.annotated for case in training))])
    return model


def _new_classes(args, class_names):
    """Numbers (from 0) of the classes that are learned in frozen parts, too: those that the starting weights lack. A
    run that goes on keeps them, as the file of these weights may be gone."""
    start = starting_file(args)
    if start:
        return load_start(start, args.output_dir)["args"].get("new_classes", [])
    if not args.init_from:
        raise InputError.because("--freeze", "it keeps weights that a run starts from", "give --init_from")
    return new_classes(args.init_from, class_names)


def model_options(args: Namespace, training: list[ListedCase]) -> dict:
    """The network's options by name, with `auto` replaced by what it means for these training cases. A run that goes on
    keeps the value that it began with, also where cases were added since."""
    options = {name: getattr(args, name) for name in MODEL_OPTIONS} | {"states": bool(args.observe)}
    if args.network != "joint":  # latents are chosen within each class
        options |= {name: EXTENSIONS[name] for name in ("fps_class_gap", "fps_density")}
    if options["fps_density"] == "auto":
        start = starting_file(args)
        options["fps_density"] = (
            load_start(start, args.output_dir)["model_config"]["fps_density"]
            if start
            else fps_density(training, training[0].num_classes)
        )
    return options


def read_training_shapes(args: Namespace, class_names: list[str], validation: list[ListedCase]) -> dict | None:
    """The arrays of the shape model of `--shape_model`; None without. InputError where it is of other structures, or
    was made from validation cases too."""
    if not args.shape_model:
        return None
    arrays, names, record = read_shape_model(args.shape_model)
    check_same_names(
        names,
        class_names,
        Path(args.shape_model),
        "the training cases",
        "make it from these training cases, or widen it (--widen)",
    )
    sources = set(record.get("sources", ()))
    if sources and "" not in sources:  # ids of several data sets may have another name here
        shared = sorted(case.case_id for case in validation if case.fingerprint in sources)
    else:
        shared = sorted(set(record.get("cases", ())) & {case.case_id for case in validation})
    if shared and not _overlap_is_meant(Path(args.csv_dir or args.data_path)):
        raise InputError.because(
            args.shape_model,
            f"it was made from {len(shared)} of the validation cases too, {shared[0]} for example",
            "make it from the training cases alone",
        )
    return arrays


def read_splits(args: Namespace) -> tuple[list[ListedCase], list[ListedCase]]:
    """(training, validation) cases, checked against each other."""
    folder = Path(args.csv_dir or args.data_path)
    suffix = "" if args.fold is None else f"_fold{args.fold}"
    training = read_split(folder / f"train{suffix}.csv", args.data_path, args.classes)
    validation = read_split(
        folder / f"val{suffix}.csv", args.data_path, training[0].num_classes, f"train{suffix}.csv has"
    )
    check_same_names(
        validation[0].class_names,
        training[0].class_names,
        validation[0].path,
        training[0].path.name,
        "prepare all cases with the same --label_mapping",
    )
    if not _overlap_is_meant(folder):
        check_disjoint(training, validation, folder)
    return training, validation


def read_dataset_weights(args: Namespace, training: list[ListedCase]) -> dict[str, float] | None:
    """{data set: how often each of its hearts is drawn per epoch} of the training cases: those of `--dataset_weights`,
    else those that splits.json says; None where each is drawn once. InputError where a weight is none, or of a data set
    that is not there."""
    names = sorted({case.dataset for case in training})
    if names == [""]:
        if args.dataset_weights:
            raise InputError.because(
                "--dataset_weights", "the CSVs are of one data set", "list several with create_csv.py, or leave it out"
            )
        return None
    record = read_json(Path(args.csv_dir or args.data_path) / SIDECAR, "the record of create_csv.py")
    weights = {name: float(record.get("datasets", {}).get(name, {}).get("weight", 1)) for name in names}
    given = args.dataset_weights or {}
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise InputError.because(
            "--dataset_weights", f"no training case is of {unknown[0]!r}; the data sets are {', '.join(names)}"
        )
    weights |= given
    return None if set(weights.values()) == {1.0} else weights


def _overlap_is_meant(folder):
    """Whether the splits' own record (splits.json) says that training and validation are the same hearts on purpose, as
    when there is only one."""
    if not (folder / "splits.json").is_file():  # the CSVs may be the user's own
        return False
    record = read_json(folder / "splits.json", "the record of create_csv.py", "make it again with create_csv.py")
    return isinstance(record, dict) and bool(record.get("overfit"))


def make_dataset(args: Namespace, cases: list[ListedCase], training: bool) -> CaseDataset:
    sizes = parse_model_name(args.model)
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
        noise_shape=(sizes["num_latents"], sizes["code_dim"]) if sizes["bottleneck"] == "kl" else None,
        cache=args.cache,
        **({"class_distances": True} if has_class_distances(args) else {}),
        with_states=bool(args.observe),
        observations=observation_draws(args.observe, list(cases[0].class_names)),
        answer_numbers=args.answer_noise,
    )


def has_class_distances(args: Namespace) -> bool:
    """Whether the network of these options has a distance per class, and so needs cases that hold them."""
    return args.network != "joint" or args.class_outputs != "logits"


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies matrices of bfloat16 by itself, so that they are faster than float32."""
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in asked)


def step_options(args: Namespace, device: torch.device) -> StepOptions:
    """StepOptions from the flags; sets torch's own precision switches too."""
    precision = args.precision
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" else "fp32"
    if precision == "tf32" and device.type != "cuda":
        raise InputError("--precision", "auto, fp32 or bf16 on a CPU", precision, "leave it out")
    if precision == "bf16" and device.type == "cpu" and not cpu_has_bf16():
        raise InputError.because(
            "--precision bf16",
            "this CPU has no products of 16-bit numbers (avx512_bf16, amx_bf16), so it would be slower",
            "leave it out",
        )
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    return StepOptions(
        {name: getattr(args, f"{name}_weight") for name in losses_of(args.network, args.class_outputs)},
        {name: getattr(args, name) for name in LOSS_OPTIONS},
        precision == "bf16",
        args.clip_grad,
    )
