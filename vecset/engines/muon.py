"""Muon for the matrices inside the network, AdamW for everything else, as one optimizer.

Muon (Jordan et al., 2024) moves a matrix along the orthogonal matrix that is nearest to its momentum: every direction
of it learns at the same rate. It is for matrices that map tokens to tokens. What reads coordinates or draws, and what
writes the outputs, keeps AdamW, and so do biases, norms, gains and embeddings. The rate is scaled per matrix so that
updates are about as large as AdamW's (Liu et al., arXiv 2502.16982): one learning rate serves both.
"""

import torch

from vecset.common.errors import InputError

MOMENTUM, ITERATIONS = 0.95, 5  # Newton-Schulz iterations towards the orthogonal matrix
# modules whose matrices read coordinates or draws, or write the outputs
_FIRST_AND_LAST = {"point_embed", "query_embed", "answer_noise", "to_outputs"}


def require_muon() -> None:
    """Raises InputError where this torch has no Muon."""
    if not hasattr(torch.optim, "Muon"):
        raise InputError("--optimizer muon", "torch >= 2.9", torch.__version__, "install it, or give --optimizer adamw")


def inner_matrices(model: torch.nn.Module, candidates: list[torch.nn.Parameter]) -> list[torch.nn.Parameter]:
    """Those of `candidates` that map tokens to tokens: two axes, and in no module of `_FIRST_AND_LAST`."""
    outer = {id(p) for name, p in model.named_parameters() if _FIRST_AND_LAST & set(name.split("."))}
    return [p for p in candidates if p.ndim == 2 and id(p) not in outer]


class MuonWithAdamW(torch.optim.Optimizer):
    """matrices: what Muon moves; groups: the rest, as `AdamW` takes it. `param_groups` has Muon's first.

    found_inf  0-d tensor, set before a step (`optimizer.masked_step`): 1: the step changes nothing. The host waits for
               it, because torch's Muon takes no mask: on a GPU a step starts once the one before it has ended.

    `state_dict()` is {"muon": ..., "adamw": ...}, each as torch's own. Needs torch >= 2.9 (`require_muon`)."""

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
            "muon": torch.optim.Muon(
                matrices,
                lr=lr,
                weight_decay=weight_decay,
                momentum=MOMENTUM,
                ns_steps=ITERATIONS,
                adjust_lr_fn="match_rms_adamw",
            ),
            "adamw": torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True),
        }
        self.found_inf = None
        super().__init__([group for part in self.parts.values() for group in part.param_groups], {})
        self._share_groups()

    def _share_groups(self):
        """A learning rate that is set here is that of the parts."""
        self.param_groups = [group for part in self.parts.values() for group in part.param_groups]

    def step(self, closure=None) -> None:
        if self.found_inf is not None and bool(self.found_inf):
            return
        for part in self.parts.values():
            part.step()

    def state_dict(self) -> dict:
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state_dict: dict) -> None:
        for name, part in self.parts.items():
            part.load_state_dict(state_dict[name])
        self._share_groups()
