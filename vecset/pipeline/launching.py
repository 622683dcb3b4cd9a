"""How the commands of the main job are started on this machine: command line, signals, GPUs."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path


def command(module: str, *words) -> list:
    """The command line of a module. -P: what lies in the working directory is not imported."""
    return [sys.executable, "-P", "-m", module, *words]


def launcher_signals() -> dict:
    """Environment with which torchrun, too, leaves SIGHUP ignored where it is (nohup): it would set its own handler,
    and end its workers when the terminal is closed. The names are those of torch 2.8 and of later versions."""
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        return {}
    return dict.fromkeys(("TORCHELASTIC_SIGNALS_TO_HANDLE", "PET_SIGNALS_TO_HANDLE"), "SIGTERM,SIGINT,SIGQUIT")


def find_gpus() -> int:
    """Number of CUDA devices. PyTorch, which takes seconds to import, is only asked where there is a driver."""
    driver = any(Path(p).exists() for p in ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd"))
    if not driver and shutil.which("nvidia-smi") is None:
        return 0
    words = [
        sys.executable,
        "-P",
        "-c",
        "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)",
    ]
    answer = subprocess.run(words, capture_output=True, text=True, check=False)
    return int(answer.stdout.split()[-1]) if answer.returncode == 0 else 0
