"""Can this run start, on this node? Options, data, checkpoints, versions, GPUs and the driver, before a job spends
hours on finding out. Prints the whole configuration, defaults and all.

    python vecset/cluster/preflight.py [--processes 4] [--options_only] -- OPTIONS OF main_ae.py
"""

import argparse
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:] = [str(ROOT)] + [p for p in sys.path if p not in (str(ROOT), str(Path(__file__).resolve().parent))]

from vecset.common.errors import run_command  # noqa: E402

# the oldest driver for a CUDA's first number: "CUDA compatibility" (minor version compatibility), docs.nvidia.com
OLDEST_DRIVER = {13: 580, 12: 525, 11: 450}
TORCH_INDEX = {12: "cu126", 11: "cu118"}  # builds of torch for it, https://download.pytorch.org/whl/


def driver_version():
    """The NVIDIA driver's version by nvidia-smi, or None."""
    if shutil.which("nvidia-smi") is None:
        return None
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(words, capture_output=True, text=True, check=False)
    return (answer.stdout.split("\n")[0].strip() or None) if answer.returncode == 0 else None


def verdict(built_for, driver, devices, processes, device=""):
    """What is wrong, as one line, or None. built_for: the CUDA version of torch or None; devices: GPUs it can use."""
    if device == "cpu":
        return None
    if devices >= processes or (devices == 0 and driver is None and not device.startswith("cuda")):
        return None  # enough of them, or a node without GPUs that trains on its CPUs
    if devices:
        return (
            f"expected a GPU for each of {processes} processes, found {devices}; ask Slurm for more, or give "
            f"--gpus {devices}"
        )
    if driver is None:
        return "expected a GPU, found no NVIDIA driver on this node; ask Slurm for one (--gres=gpu:4)"
    if built_for is None:
        return (
            "expected a torch built for CUDA, found one for CPUs only; install torch from PyPI (pip install torch) "
            "into this Python"
        )
    return driver_verdict(built_for, driver)


def driver_verdict(built_for, driver):
    """Why torch, built for CUDA `built_for`, sees no GPU beside this driver: too old, or no GPU given."""
    cuda, number = int(built_for.split(".")[0]), int(driver.split(".")[0])
    oldest = OLDEST_DRIVER.get(cuda, max(OLDEST_DRIVER.values()))
    if number >= oldest:
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        seen = "is not set" if given is None else f"is '{given}'"
        return (
            f"expected a GPU that torch can use, found none, although driver {driver} is new enough for CUDA "
            f"{built_for}; ask Slurm for one (--gres=gpu:4; CUDA_VISIBLE_DEVICES {seen}), and try nvidia-smi there"
        )
    newest = max((c for c, first in OLDEST_DRIVER.items() if number >= first and c in TORCH_INDEX), default=None)
    to_do = "no torch that this software runs on knows it: ask for a newer driver"
    if newest:
        to_do = (
            f"install a torch built for CUDA {newest} into this Python: pip install --force-reinstall "
            f"'torch>=2.6' --index-url https://download.pytorch.org/whl/{TORCH_INDEX[newest]}"
        )
    return (
        f"expected driver {oldest} or newer for a torch built for CUDA {built_for}, found driver {driver}, which is "
        f"too old; {to_do}"
    )


def check_training(words, with_data):
    """Prints the configuration that main_ae.py makes of `words`; returns its --device. Raises InputError where the
    options contradict each other, a checkpoint is none or, `with_data`, the splits or their files are not there."""
    from vecset.engines.arguments import parse_arguments
    from vecset.main_ae import check_arguments, read_splits
    from vecset.models.autoencoder import parse_model_name
    from vecset.models.checkpoint import LAST, load_checkpoint, load_safely

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
        last = Path(args.output_dir) / LAST
        training, validation = read_splits(args)
        print(f"{len(training)} training and {len(validation)} validation cases, {training[0].num_classes} classes")
        if last.is_file():
            load_checkpoint(last, training[0].num_classes)
    return args.device


def main(argv=None):
    parser = argparse.ArgumentParser("preflight.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("--processes", type=int, default=1, help="training processes on this node (default: 1)")
    parser.add_argument("--options_only", action="store_true", help="look at the training options, not at data or GPUs")
    parser.add_argument("training", nargs="*", help="behind --: options of main_ae.py")
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
