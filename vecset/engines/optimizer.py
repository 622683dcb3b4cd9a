"""AdamW with its parameter groups, its moments whole or in shards over the ranks, or Muon beside it; the update that
can be masked; and the learning rate: linear warm-up, then a cosine down to the minimum, set before every step.

Muon (Jordan et al., 2024) moves a matrix along the orthogonal matrix that is nearest to its momentum: every direction
of it learns at the same rate. It is for matrices that map tokens to tokens. What reads coordinates or draws, and what
writes the outputs, keeps AdamW, and so do biases, norms, gains and embeddings. The rate is scaled per matrix so that
updates are about as large as AdamW's (Liu et al., arXiv 2502.16982): one learning rate serves both.
"""

import math

import torch

MUON_MOMENTUM = 0.95
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # of the odd polynomial of degree 5 that is iterated (Jordan et al.)
MUON_ITERATIONS = 5  # of it, towards the orthogonal matrix
LEAST_NORM = 1e-7
# modules whose matrices read coordinates or draws, or write the outputs
_FIRST_AND_LAST = {"point_embed", "query_embed", "answer_noise", "proposed_distances", "to_outputs"}


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict]:
    """Two groups: matrices decay; biases, norms and gains (one axis or none), and embeddings and learned places (what a
    decay would pull towards zero although zero means nothing there) do not."""
    embeddings = {id(p) for m in model.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters()}
    embeddings |= {id(p) for name, p in model.named_parameters() if name.split(".")[-1] == "anchors"}
    decay, keep = [], []
    for parameter in model.parameters():
        if parameter.requires_grad:
            (keep if parameter.ndim < 2 or id(parameter) in embeddings else decay).append(parameter)
    return [{"params": decay, "weight_decay": weight_decay}, {"params": keep, "weight_decay": 0.0}]


def inner_matrices(model: torch.nn.Module, candidates: list[torch.nn.Parameter]) -> list[torch.nn.Parameter]:
    """Those of `candidates` that map tokens to tokens: two axes, and in no module of `_FIRST_AND_LAST`."""
    outer = {id(p) for name, p in model.named_parameters() if _FIRST_AND_LAST & set(name.split("."))}
    return [p for p in candidates if p.ndim == 2 and id(p) not in outer]


def orthogonal(matrices_KMN: torch.Tensor) -> torch.Tensor:
    """(K, M, N): of each matrix the orthogonal one that is nearest to it, nearly: singular values become 0.7 to 1.2, by
    Newton-Schulz iterations. In float32 on a CPU, for many multiply numbers of 16 bit by emulation, ten times slower
    than those of 32 (benchmarks/RESULTS.md); in bfloat16 on a GPU."""
    x = matrices_KMN.to(torch.bfloat16 if matrices_KMN.is_cuda else torch.float32)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp_min(LEAST_NORM)  # no singular value above 1
    a, b, c = NEWTON_SCHULZ
    for _ in range(MUON_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices_KMN.dtype)


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay, as torch.optim.Muon (torch 2.9 and later) has it with
    adjust_lr_fn="match_rms_adamw"; states are interchangeable. Matrices of one shape are made orthogonal together, and
    a step can be masked on the device: `found_inf` as of `MuonWithAdamW`."""

    def __init__(self, matrices: list[torch.nn.Parameter], *, lr: float, weight_decay: float):
        self.found_inf = None
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": MUON_MOMENTUM})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            alike = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    alike.setdefault((matrix.shape, matrix.device), []).append(matrix)
            for matrices in alike.values():
                self._move(matrices, group)

    def _move(self, matrices, group):
        states = [self.state[matrix] for matrix in matrices]
        for state, matrix in zip(states, matrices):
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(matrix)
        gradients = torch.stack([matrix.grad for matrix in matrices])
        before = torch.stack([state["momentum_buffer"] for state in states])
        momenta = before.lerp(gradients, 1 - group["momentum"])
        updates = orthogonal(gradients.lerp(momenta, group["momentum"]))
        rate = 0.2 * math.sqrt(max(matrices[0].shape)) * group["lr"]
        old = torch.stack(matrices)
        new = old * (1 - group["lr"] * group["weight_decay"]) - rate * updates
        if self.found_inf is not None:
            skip = self.found_inf.to(old.device) > 0
            momenta, new = torch.where(skip, before, momenta), torch.where(skip, old, new)
        for state, matrix, momentum, moved in zip(states, matrices, momenta, new):
            state["momentum_buffer"].copy_(momentum)
            matrix.copy_(moved)


class MuonWithAdamW(torch.optim.Optimizer):
    """matrices: what Muon moves; groups: the rest, as `AdamW` takes it. `param_groups` has Muon's first.

    found_inf  0-d tensor, set before a step (`masked_step`): 1: the step changes nothing. The host never reads it.

    `state_dict()` is {"muon": ..., "adamw": ...}, each as torch's own."""

    def __init__(
        self,
        matrices: list[torch.nn.Parameter],
        groups: list[dict],
        *,
        lr: float,
        weight_decay: float,
        betas: tuple[float, float],
    ):
        self.parts = {
            "muon": Muon(matrices, lr=lr, weight_decay=weight_decay),
            "adamw": torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True),
        }
        self.found_inf = None
        super().__init__([group for part in self.parts.values() for group in part.param_groups], {})
        self._share_groups()

    def _share_groups(self):
        """A learning rate that is set here is that of the parts."""
        self.param_groups = [group for part in self.parts.values() for group in part.param_groups]

    def step(self, closure=None) -> None:
        for part in self.parts.values():
            part.found_inf = self.found_inf
            part.step()

    def state_dict(self) -> dict:
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state_dict: dict) -> None:
        for name, part in self.parts.items():
            part.load_state_dict(state_dict[name])
        self._share_groups()


def build_optimizer(
    model: torch.nn.Module, lr: float, weight_decay: float, beta2: float, shards: int = 1, name: str = "adamw"
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter, ICLR 2019) in its fused form, which is fast and takes a mask on the device.

    name: "muon": Muon for the matrices inside the network that learn, AdamW for the rest; not with shards.

    shards > 1: ZeRO stage 1 (Rajbhandari et al., SC 2020). Each rank keeps the moments of its shard of the parameters
    and updates those, then sends them to the others; the numbers are the same."""
    groups = parameter_groups(model, weight_decay)
    if name == "muon":
        matrices = inner_matrices(model, groups[0]["params"])
        chosen = {id(p) for p in matrices}
        groups[0]["params"] = [p for p in groups[0]["params"] if id(p) not in chosen]
        if matrices:
            return MuonWithAdamW(matrices, groups, lr=lr, weight_decay=weight_decay, betas=(0.9, beta2))
    options = {"lr": lr, "betas": (0.9, beta2), "fused": True}
    if shards == 1:
        return torch.optim.AdamW(groups, **options)
    from torch.distributed.optim import ZeroRedundancyOptimizer

    return ZeroRedundancyOptimizer(groups, torch.optim.AdamW, **options)


def gather_state(optimizer: torch.optim.Optimizer) -> None:
    """Brings the shards of a sharded optimizer to rank 0, whose `state_dict()` is then that of a whole AdamW. All ranks
    call it together; for a whole optimizer it does nothing."""
    if hasattr(optimizer, "consolidate_state_dict"):
        optimizer.consolidate_state_dict(to=0)


def load_state(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Loads `state`, which a whole AdamW or any number of shards saved; a sharded optimizer keeps its own shard."""
    optimizer.load_state_dict(state)
    if hasattr(optimizer, "consolidate_state_dict"):
        optimizer.state.clear()  # a second copy of the shard, which nothing reads
        for parameter, values in optimizer.optim.state.items():  # fused AdamW counts its steps where the parameter is
            values["step"] = values["step"].to(parameter.device)


def masked_step(optimizer: torch.optim.Optimizer, skip: torch.Tensor) -> None:
    """One optimizer step that changes nothing, moments and step counts included, where `skip` (0-d float32 on the
    device) is 1. The host never reads it; `found_inf` is the attribute that torch's GradScaler sets."""
    getattr(optimizer, "optim", optimizer).found_inf = skip  # a sharded one has the AdamW of its shard inside
    optimizer.step()


def gradient_norm(parameters, clip: float | None = None) -> torch.Tensor:
    """Norm of all gradients (0-d, on the device), which are scaled down to `clip` where that is given and exceeded."""
    parameters = [p for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters], foreach=True)
    if clip:
        torch.nn.utils.clip_grads_with_norm_(parameters, clip, norm, foreach=True)
    return norm


def learning_rate(epoch: float, *, lr: float, min_lr: float, warmup_epochs: float, epochs: int) -> float:
    """The rate at `epoch`, a real number (epoch + step / steps per epoch).

    0 at epoch 0, linear up to `lr` at `warmup_epochs`, then min_lr + (lr - min_lr) (1 + cos(pi t)) / 2, where t goes
    from 0 to 1 at `epochs` (Loshchilov and Hutter, SGDR, ICLR 2017; as in facebookresearch/mae)."""
    if epoch < warmup_epochs:
        return lr * epoch / warmup_epochs
    t = min(1.0, (epoch - warmup_epochs) / max(epochs - warmup_epochs, 1e-12))
    return min_lr + (lr - min_lr) * 0.5 * (1 + math.cos(math.pi * t))


def scaled_rate(blr: float, effective_batch: int) -> float:
    """The linear scaling rule (Goyal et al., 2017): `blr` is the rate for 256 cases per optimizer step."""
    return blr * effective_batch / 256
