"""--compile: whether torch.compile works here, found out before training and not in its first step."""

import time

import torch

from vecset.common.errors import InputError

# words in torch's error: what to do
_ADVICE = {
    "No working C++ compiler": "install one (Debian, Ubuntu: apt-get install g++; on a cluster: module load gcc)",
    "Failed to find C compiler": "install one (Debian, Ubuntu: apt-get install gcc; on a cluster: module load gcc)",
    "Python.h": "install the headers of this Python (Debian, Ubuntu: apt-get install python3-dev)",
    "triton": "install the Triton that belongs to this torch (pip install --force-reinstall torch)",
    "No space left": "set TORCHINDUCTOR_CACHE_DIR to a folder on a disk with space",
    "Disk quota": "set TORCHINDUCTOR_CACHE_DIR to a folder on a disk with space",
    "Read-only file system": "set TORCHINDUCTOR_CACHE_DIR to a folder that can be written to",
    "Permission denied": "set TORCHINDUCTOR_CACHE_DIR to a folder that can be written to",
    "Not a directory": "set TORCHINDUCTOR_CACHE_DIR to a folder that can be written to",
    "File exists": "set TORCHINDUCTOR_CACHE_DIR to a folder that can be written to",
}


def require_compiler(device: torch.device) -> None:
    """Compiles and runs a small function on `device`. Raises InputError where that fails."""
    size = 1000 + time.time_ns() // 1000 % 1_000_000  # a length of its own, so that no cache has it already

    def trial(values):
        return (values.sin() + 1).sum()

    try:
        torch.compile(trial, dynamic=False)(torch.zeros(size, device=device))
    except Exception as error:
        raise compile_error(error) from None
    torch.compiler.reset()


def compile_error(error: Exception) -> InputError:
    """The line for an error of torch.compile."""
    text = str(error)
    lines = [line for line in text.splitlines() if line.strip()]
    said = next((line for line in lines if "error:" in line.lower()), lines[0] if lines else type(error).__name__)
    to_do = next((advice for words, advice in _ADVICE.items() if words.lower() in text.lower()), "")
    return InputError.because(
        "--compile",
        f"torch.compile does not work here ({' '.join(said.split())[:200]})",
        f"{to_do}, or leave --compile out" if to_do else "leave --compile out",
    )


def is_compile_error(error: Exception) -> bool:
    """Whether torch raised it while it compiled."""
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))
