"""AdamW with its parameter groups, its moments whole or in shards over the ranks, or Muon beside it; the update that
can be masked; and the learning rate: linear warm-up, then a cosine down to the minimum, set before every step."""

import math

import torch

from vecset.engines.muon import MuonWithAdamW, inner_matrices, require_muon


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


def build_optimizer(
    model: torch.nn.Module, lr: float, weight_decay: float, beta2: float, shards: int = 1, name: str = "adamw"
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter, ICLR 2019) in its fused form, which is fast and takes a mask on the device.

    name: "muon": Muon for the matrices inside the network, AdamW for the rest; not with shards (engines/muon.py).
    InputError where this torch has no Muon.

    shards > 1: ZeRO stage 1 (Rajbhandari et al., SC 2020). Each rank keeps the moments of its shard of the parameters
    and updates those, then sends them to the others; the numbers are the same."""
    groups = parameter_groups(model, weight_decay)
    if name == "muon":
        require_muon()
        matrices = inner_matrices(model, groups[0]["params"])
        chosen = {id(p) for p in matrices}
        groups[0]["params"] = [p for p in groups[0]["params"] if id(p) not in chosen]
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
    device) is 1. With AdamW the host never reads it; `found_inf` is the attribute that torch's GradScaler sets."""
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
