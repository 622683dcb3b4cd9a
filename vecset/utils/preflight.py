"""Can this node train? Versions, GPUs and the driver, before a job spends hours on finding out.

    python vecset/utils/preflight.py [--device cpu] [--processes 4]
"""

import argparse
import shutil
import subprocess
import sys


def driver_version():
    """The NVIDIA driver's version by nvidia-smi, or None."""
    if shutil.which("nvidia-smi") is None:
        return None
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(words, capture_output=True, text=True, check=False)
    return answer.stdout.split("\n")[0].strip() or None


def verdict(built_for, driver, devices, processes, device=""):
    """What is wrong, as one line, or None. built_for: the CUDA version of torch or None; devices: GPUs it can use."""
    if device == "cpu":
        return None
    if devices >= processes or (devices == 0 and driver is None and not device.startswith("cuda")):
        return None  # enough of them, or a node without GPUs that trains on its CPUs
    if devices:
        return (f"expected a GPU for each of {processes} processes, found {devices}; ask Slurm for more, or give "
                f"--gpus {devices}")
    if driver is None:
        return "expected a GPU, found no NVIDIA driver on this node; ask Slurm for one (--gres=gpu:4)"
    if built_for is None:
        return ("expected a torch built for CUDA, found one for CPUs only; install torch from PyPI (pip install torch) "
                "into this Python")
    return (f"expected a GPU that torch can use, found driver {driver}, too old for a torch built for CUDA {built_for},"
            " or no GPU given to this job; run nvidia-smi: it prints the newest CUDA that the driver knows, and "
            "https://pytorch.org/get-started/previous-versions says how to install a torch built for that one "
            "(torch 2.6 or newer is enough)")


def main(argv=None):
    parser = argparse.ArgumentParser("preflight.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", default="", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--processes", type=int, default=1, help="training processes on this node (default: 1)")
    args = parser.parse_args(argv)
    import torch

    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    driver = driver_version()
    print(f"Python {sys.version.split()[0]}, torch {torch.__version__}, CUDA {torch.version.cuda}, driver {driver}, "
          f"{devices} GPU(s)")
    for i in range(devices):
        facts = torch.cuda.get_device_properties(i)
        print(f"  GPU {i}: {facts.name}, {facts.total_memory / 2**30:.0f} GiB")
    wrong = verdict(torch.version.cuda, driver, devices, args.processes, args.device)
    if wrong:
        print(f"error: {wrong}", file=sys.stderr)
    return 2 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
