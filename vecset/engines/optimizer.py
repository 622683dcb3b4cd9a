"""AdamW with its parameter groups, its moments whole or shared out over ranks, and the update that can be masked on the
device."""

import torch


def parameter_groups(model, weight_decay):
    """Two groups: matrices decay; biases, norms and gains (one axis or none), and embeddings and learned places (what a
    decay would pull towards zero although zero means nothing there) do not."""
    embeddings = {id(p) for m in model.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters()}
    embeddings |= {id(p) for name, p in model.named_parameters() if name.split(".")[-1] == "anchors"}
    decay, keep = [], []
    for parameter in model.parameters():
        if parameter.requires_grad:
            (keep if parameter.ndim < 2 or id(parameter) in embeddings else decay).append(parameter)
    return [{"params": decay, "weight_decay": weight_decay}, {"params": keep, "weight_decay": 0.0}]


def build_optimizer(model, lr, weight_decay, beta2, shards=1):
    """AdamW (Loshchilov and Hutter, ICLR 2019) in its fused form, which is fast and takes a mask on the device.

    shards > 1: ZeRO stage 1 (Rajbhandari et al., SC 2020). Each rank keeps the moments of its share of the parameters
    and updates those, then sends them to the others; the same numbers as without."""
    groups, options = parameter_groups(model, weight_decay), {"lr": lr, "betas": (0.9, beta2), "fused": True}
    if shards == 1:
        return torch.optim.AdamW(groups, **options)
    from torch.distributed.optim import ZeroRedundancyOptimizer

    return ZeroRedundancyOptimizer(groups, torch.optim.AdamW, **options)


def gather_state(optimizer):
    """Brings the shares of a sharded optimizer to rank 0, whose `state_dict()` is then the one of a whole AdamW. All
    ranks call it together; a whole optimizer has nothing to bring."""
    if hasattr(optimizer, "consolidate_state_dict"):
        optimizer.consolidate_state_dict(to=0)


def load_state(optimizer, state):
    """Takes over `state`, which a whole AdamW or any number of shares saved; a sharded one keeps its own share."""
    optimizer.load_state_dict(state)
    if hasattr(optimizer, "consolidate_state_dict"):
        optimizer.state.clear()  # a second copy of the share, which nothing reads
        for parameter, values in optimizer.optim.state.items():  # fused AdamW counts its steps where the parameter is
            values["step"] = values["step"].to(parameter.device)


def masked_step(optimizer, skip):
    """One optimizer step that changes nothing, moments and step counts included, where `skip` (0-d float32 on the
    device) is 1. The host never learns which; `found_inf` is the door that torch's GradScaler uses."""
    getattr(optimizer, "optim", optimizer).found_inf = skip  # a sharded one has the AdamW of its share inside
    optimizer.step()


def gradient_norm(parameters, clip=None):
    """Norm of all gradients (0-d, on the device), which are scaled down to `clip` where that is given and exceeded."""
    parameters = [p for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters], foreach=True)
    if clip:
        torch.nn.utils.clip_grads_with_norm_(parameters, clip, norm, foreach=True)
    return norm
