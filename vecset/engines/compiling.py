"""--compile: whether torch.compile works here, found out before training and not in its first step. And passes that are
recorded as CUDA graphs (`GraphedPass`), which the benchmarks measure; no command uses them."""

import time
from collections.abc import Callable

import torch

from vecset.common.errors import InputError
from vecset.engines.loop import StepOptions, forward_backward

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


class GraphedPass:
    """`forward_backward` whose kernels are recorded once and then launched together: one CUDA graph per kind of batch
    (names, shapes and types of its tensors, number of latents, weight). The numbers are those of `forward_backward`.

    A small network's step on a GPU is bound by the launches of some thousand kernels, which a replay leaves out. It may
    stand in for `forward_backward` where the host never waits for the GPU inside a pass, which recording forbids, and
    where gradients are set to None between steps. Norm, clipping, the check for numbers that are not finite and the
    optimizer stay outside the graph, so the learning rate may change. What comes back, values and gradients, holds
    until the next call, which writes to the same memory.

    most_kinds    kinds of batches that are recorded; others, and passes that add to a gradient that is there already,
                  run as they are. Each recording keeps the memory of a pass.
    record        (run, parameters) -> (replay, values); another than CUDA's in tests
    """

    def __init__(self, most_kinds: int = 2, record: Callable | None = None):
        self.most_kinds, self._record, self._kinds = most_kinds, record or record_cuda_graph, {}

    def __call__(
        self,
        model,
        batch: dict,
        options: StepOptions,
        num_classes: int,
        num_latents: int | None = None,
        weight: float = 1.0,
    ) -> dict:
        rest = (options, num_classes, num_latents, weight)
        shapes = tuple((name, tuple(value.shape), value.dtype) for name, value in sorted(batch.items()))
        key = (id(model), model.training, id(options), *rest[1:], shapes)
        parameters = [p for p in model.parameters() if p.requires_grad]
        if any(p.grad is not None for p in parameters) or (
            key not in self._kinds and len(self._kinds) == self.most_kinds
        ):
            return forward_backward(model, batch, *rest)
        if key not in self._kinds:
            static = {name: value.clone(memory_format=torch.contiguous_format) for name, value in batch.items()}
            replay, values = self._record(lambda: forward_backward(model, static, *rest), parameters)
            # held here: the loop drops the gradients after every step, and a replay writes to their memory
            self._kinds[key] = static, replay, values, [p.grad for p in parameters], (model, options)
        static, replay, values, gradients, _ = self._kinds[key]
        for name, value in batch.items():
            static[name].copy_(value, non_blocking=True)
        replay()
        for parameter, gradient in zip(parameters, gradients):
            parameter.grad = gradient
        return values


def record_cuda_graph(run: Callable, parameters: list, warm_up: int = 3) -> tuple[Callable, object]:
    """Records `run`, which leaves gradients at `parameters`, as a CUDA graph (PyTorch's "whole-network capture").
    -> (replay, what `run` returned: tensors that every replay writes anew). The passes before it, on a stream of their
    own, compile kernels and choose algorithms; recording itself computes nothing."""
    ours, aside = torch.cuda.current_stream(), torch.cuda.Stream()
    aside.wait_stream(ours)
    with torch.cuda.stream(aside):
        for _ in range(warm_up):
            run()
            for parameter in parameters:
                parameter.grad = None
    ours.wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    # thread_local: the thread that pins the loader's batches may go on calling CUDA
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        values = run()
    return graph.replay, values
