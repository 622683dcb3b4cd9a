"""Can this training run start on this node? Checks options, data, checkpoints, versions, GPUs and driver.

    python -m vecset.cluster.preflight [--processes 4] [--options_only] -- OPTIONS OF main_ae.py

Prints the whole configuration, defaults included. The scripts run this module as a file, before a job spends hours.
"""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

if not __package__:  # run as a file: its folder gives way to the repository
    sys.path[:] = [str(Path(__file__).resolve().parents[2])] + [
        p for p in sys.path if Path(p).resolve() != Path(__file__).resolve().parent
    ]

from vecset.common.arguments import CommandParser
from vecset.common.errors import run_command

# the oldest driver for a CUDA's first number: "CUDA compatibility" (minor version compatibility), docs.nvidia.com
OLDEST_DRIVER = {13: 580, 12: 525, 11: 450}
TORCH_INDEX = {12: "cu126", 11: "cu118"}  # builds of torch for it, https://download.pytorch.org/whl/


def driver_version() -> str | None:
    """The version of the NVIDIA driver, from nvidia-smi, or None."""
    if shutil.which("nvidia-smi") is None:
        return None
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(words, capture_output=True, text=True, check=False)
    return (answer.stdout.split("\n")[0].strip() or None) if answer.returncode == 0 else None


def verdict(built_for: str | None, driver: str | None, devices: int, processes: int, device: str = "") -> str | None:
    """Why this node cannot train, as one line, or None. built_for: the CUDA version that torch was built for; devices:
    GPUs that torch can use; device: as --device of main_ae.py, "" as its default."""
    if device == "cpu":
        return None
    if devices >= processes or (devices == 0 and driver is None and not device.startswith("cuda")):
        return None  # enough of them, or a node without GPUs that trains on its CPUs
    if devices:
        return (
            f"{processes} processes need a GPU each, and torch sees {devices}; ask Slurm for more, or give "
            f"--gpus {devices}"
        )
    if driver is None:
        return "this node has no NVIDIA driver; ask Slurm for a GPU (--gres=gpu:4)"
    if built_for is None:
        return "this torch is built for CPUs only; install one built for CUDA into this Python (pip install torch)"
    return driver_verdict(built_for, driver)


def driver_verdict(built_for: str, driver: str) -> str:
    """Why torch, built for CUDA `built_for`, sees no GPU with this driver: it is too old, or no GPU was given."""
    cuda, number = int(built_for.split(".")[0]), int(driver.split(".")[0])
    oldest = OLDEST_DRIVER.get(cuda, max(OLDEST_DRIVER.values()))
    if number >= oldest:
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        seen = "is not set" if given is None else f"is '{given}'"
        return (
            f"torch sees no GPU, although driver {driver} is new enough for CUDA {built_for}; ask Slurm for one "
            f"(--gres=gpu:4; CUDA_VISIBLE_DEVICES {seen}), and run nvidia-smi there"
        )
    newest = max((c for c, first in OLDEST_DRIVER.items() if number >= first and c in TORCH_INDEX), default=None)
    to_do = "no torch that this software needs supports it: ask for a newer driver"
    if newest:
        to_do = (
            f"install a torch built for CUDA {newest} into this Python: pip install --force-reinstall "
            f"'torch>=2.6' --index-url https://download.pytorch.org/whl/{TORCH_INDEX[newest]}"
        )
    return f"driver {driver} is too old for a torch built for CUDA {built_for}, which needs {oldest} or newer; {to_do}"


def check_training(words: list[str], with_data: bool) -> str:
    """Prints the configuration that main_ae.py makes of the options `words`. Returns its --device. Raises InputError
    where options contradict each other, a checkpoint is none or, `with_data`, splits or case files are missing."""
    from vecset.engines.argument_checks import check_arguments
    from vecset.engines.arguments import parse_arguments
    from vecset.engines.run_folder import load_start, starting_file
    from vecset.engines.setup import read_splits
    from vecset.models.autoencoder import parse_model_name
    from vecset.weights.checkpoint import load_checkpoint, load_safely

    args = parse_arguments(words)
    told = " ".join(
        f"{name}={f'{value:g}' if isinstance(value, float) else value}" for name, value in sorted(vars(args).items())
    )
    print("\n  ".join(textwrap.wrap(f"configuration: {told}", 118, break_long_words=False, break_on_hyphens=False)))
    check_arguments(args)
    parse_model_name(args.model)
    if args.init_from:
        load_safely(args.init_from, "give a checkpoint of the public VecSetX release or one that main_ae.py wrote")
    if args.resume:
        load_checkpoint(args.resume)
    if with_data:
        start = starting_file(args)
        training, validation = read_splits(args)
        print(f"{len(training)} training and {len(validation)} validation cases, {training[0].num_classes} classes")
        if start:
            load_start(start, args.output_dir)
            load_checkpoint(start, training[0].num_classes)
    return args.device


def main(argv: list[str] | None = None) -> int:
    parser = CommandParser("preflight.py", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--processes", type=int, default=1, help="training processes on this node (default: 1)")
    parser.add_argument("--options_only", action="store_true", help="check the training options, not data and GPUs")
    parser.add_argument("training", nargs="*", help="after --: options of main_ae.py")
    args = parser.parse_args(argv)
    import torch

    device = ""
    if not args.options_only:
        devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
        driver = driver_version()
        print(
            f"Python {sys.version.split()[0]}, torch {torch.__version__}, CUDA {torch.version.cuda}, driver {driver}, "
            f"{devices} GPU(s)"
        )
        for i in range(devices):
            facts = torch.cuda.get_device_properties(i)
            print(f"  GPU {i}: {facts.name}, {facts.total_memory / 2**30:.0f} GiB", flush=True)
    device = check_training(args.training, not args.options_only)
    wrong = None if args.options_only else verdict(torch.version.cuda, driver, devices, args.processes, device)
    if wrong:
        print(f"error: {wrong}", file=sys.stderr)
    return 2 if wrong else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
