"""One field per structure: the points of a class -> latents of its own -> the signed distance to that class.

One network serves all classes. The classes of a heart are folded into the batch, so that encoder, latent stack and
decoder run on B x C cases of N // C points and M // C latents each. Union: the smallest of the class distances. Label:
the class of the smallest, also where several claim a point; gaps cannot be, because the union is made of the classes.

per_class   the fields of a heart know nothing of each other.
parts       every second layer of the latent stack (the 2nd, the 4th, ...) sees the latents of all classes, the others
            those of one.

The idea of latents per part, and of layers that alternate between one part and all, is that of VecHeart (MICCAI 2026,
arXiv 2604.19403: of its seven layers those numbered 1, 3 and 5 from 0 see all parts); the code is our own. Where it
differs: any classes and not four chambers and a wall; the frame of this repository, a normalisation per heart; one
decoder for all classes, told which one by an embedding that is added to the latents; attention with places (anchors,
rotary) and latents chosen by farthest point sampling within the class, where the options ask for them; a class without
points is told to the others by a learned token, and its distance is a constant.

What comes from a class is what its own points say: the joint network may complete a class that was not given, this one
gives it no voxel.

Shapes as in joint_network.py; n = N // C points and m = M // C latents per class; X = B x C.
"""

import torch
from torch import nn

from vecset.common.errors import InputError
from vecset.common.structure_state import ABSENT_DISTANCE
from vecset.models import attention
from vecset.models.joint_network import VecSetAutoencoder
from vecset.models.labels import UNKNOWN_LOGIT, logits_of_distances

# The latents of a class without points are zeros. Stored in 4 bits or more they are at most a fifteenth of the largest
# number of the heart; those of a class with points have some of its size.
_NOTHING = 0.1


class PartAutoencoder(VecSetAutoencoder):
    """parts: whether every second layer sees all classes. The other arguments are those of `VecSetAutoencoder`, but for
    `fps_class_gap`, `fps_density`, `class_outputs`, `states` and what goes with these, which have no meaning here.
    num_latents: of all classes together; what is left over where C does not divide it is not used.

    Latents stay one tensor (B, C m, L), class after class; those of a class without points are zeros."""

    def __init__(
        self,
        *,
        parts: bool,
        num_classes: int,
        num_latents: int,
        dim: int,
        depth: int,
        fps_class_gap: float = 0.0,
        fps_density: str = "",
        class_outputs: str = "logits",
        states: bool = False,
        answer_noise: int = 0,
        shape_model: dict | None = None,
        fit_at_queries: bool = False,
        **options,
    ):
        name = "parts" if parts else "per_class"
        for flag, value, off in (
            ("fps_class_gap", fps_class_gap, 0.0),
            ("fps_density", fps_density, ""),
            ("class_outputs", class_outputs, "logits"),
            ("observe", states, False),
            ("answer_noise", answer_noise, 0),
        ):
            if value != off:
                raise InputError.because(f"--{flag}", f"it has no meaning with --network {name}", "leave it out")
        require_one_each("--model", num_latents, num_classes)
        if parts and depth < 2:
            raise InputError.because(
                "--model",
                f"--network parts needs two layers, one within the classes and one over all, not depth {depth}",
                "choose depth 2 or more, or --network per_class",
            )
        super().__init__(num_classes=num_classes, num_latents=num_latents, dim=dim, depth=depth, **options)
        self.decoder_passes = num_classes
        self.class_embed = nn.Embedding(num_classes, dim)
        nn.init.normal_(self.class_embed.weight, std=0.5)  # about the size of an embedded place
        self.parts = parts
        if parts:
            self.absent = nn.Parameter(torch.zeros(dim))  # in place of the latents of a class without points

    def _queries_per_field(self, num_latents):
        return num_latents // self.num_classes

    def _num_outputs(self):
        return 1

    @property
    def has_class_distances(self) -> bool:
        return True

    def latent_words(self) -> str:
        m = self._queries_per_field(self.num_latents)
        used = m * self.num_classes
        rest = "" if used == self.num_latents else f", {used} of {self.num_latents} in all"
        return f"{m} latents for each of {self.num_classes} classes{rest}"

    def use_latents(self, num_latents: int) -> None:
        """As in `VecSetAutoencoder`; num_latents: of all classes together."""
        require_one_each("--num_latents", num_latents, self.num_classes)
        super().use_latents(num_latents)

    # --- surface -> latents

    def _encode(self, surface_BNF, noise_BML=None, num_latents=None, states_BC=None):
        """-> latents (B, C m, L), kl_B or None, and present_BC: which classes have points."""
        B, C = len(surface_BNF), self.num_classes
        m = self._queries_per_field(num_latents or self.num_latents)
        surface_XnF, present_BC = self.split_surface(surface_BNF)
        if noise_BML is not None:
            noise_BML = noise_BML[:, : C * m].reshape(B * C, m, -1)
        latents_XmL, kl_X = super()._encode(surface_XnF, noise_BML, m, states_BC)
        latents_BCmL = latents_XmL.unflatten(0, (B, C))
        latents_BCmL = torch.where(present_BC[..., None, None], latents_BCmL, 0.0)
        kl_B = None
        if kl_X is not None:
            kl_BC = torch.where(present_BC, kl_X.unflatten(0, (B, C)), 0.0)
            kl_B = kl_BC.sum(1) / present_BC.sum(1).clamp_min(1)
        return latents_BCmL.flatten(1, 2), kl_B, present_BC

    def split_surface(self, surface_BNF: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """-> surface (B C, n, F), class after class, and present_BC. Of a class with more than n = N // C points every
        so-manieth is taken in their order, those of one with fewer are repeated; one without points has zeros."""
        B, N, _ = surface_BNF.shape
        C = self.num_classes
        n = max(1, N // C)
        label_BN = surface_BNF[..., 3:].argmax(-1)
        classes_C = torch.arange(C, device=label_BN.device)
        count_BC = (label_BN.unsqueeze(-1) == classes_C).sum(1)
        first_BC = count_BC.cumsum(1) - count_BC
        step_n = torch.arange(n, device=label_BN.device)
        place_BCn = first_BC.unsqueeze(-1) + step_n * count_BC.unsqueeze(-1) // n
        by_class_BN = label_BN.argsort(dim=1, stable=True)
        row_BT = by_class_BN.gather(1, place_BCn.flatten(1).clamp_max(N - 1))
        points_BCn3 = surface_BNF[..., :3].gather(1, row_BT.unsqueeze(-1).expand(-1, -1, 3)).unflatten(1, (C, n))
        present_BC = count_BC > 0
        points_BCn3 = torch.where(present_BC[..., None, None], points_BCn3, 0.0)
        one_hot_CC = torch.eye(C, dtype=surface_BNF.dtype, device=surface_BNF.device)
        one_hot_BCnC = one_hot_CC.view(1, C, 1, C).expand(B, -1, n, -1)
        return torch.cat([points_BCn3, one_hot_BCnC], -1).flatten(0, 1), present_BC

    def _queries_of_surface(self, surface_XnF, num_latents=None, marks_XnD=None, seen=None):
        if self.query_type == "point":
            return super()._queries_of_surface(surface_XnF, num_latents, marks_XnD, seen)
        if num_latents not in (None, len(self.latents.weight)):
            raise ValueError(f"{num_latents} latents per class, of a model with {len(self.latents.weight)} learned")
        x, anchors = super()._queries_of_surface(surface_XnF)
        return x + self._class_tokens(len(surface_XnF)), anchors

    def _class_tokens(self, count):
        """(X, 1, D): the embedding of each case's class."""
        return self.class_embed.weight.repeat(count // self.num_classes, 1).unsqueeze(1)

    # --- latents -> fields

    def process_latents(self, latents_BML: torch.Tensor, present_BC: torch.Tensor | None = None) -> dict:
        """As in `VecSetAutoencoder`. present_BC: which classes have latents; by default those whose latents are not
        zeros."""
        B, C = len(latents_BML), self.num_classes
        latents_BCmL = latents_BML.unflatten(1, (C, -1))
        if present_BC is None:
            largest_BC = latents_BCmL.abs().amax((2, 3))
            present_BC = largest_BC > _NOTHING * largest_BC.amax(1, keepdim=True)
        x, anchors_Xm3 = self._tokens_of(latents_BCmL.flatten(0, 1))
        if self.parts:
            x = torch.where(present_BC.flatten()[:, None, None], x, self.absent.to(x.dtype))
        x = x + self._class_tokens(len(x)).to(x.dtype)
        own, all_of_them = self._places_of_layers(anchors_Xm3), None
        if self.parts and self.rotary:
            all_of_them = self._places_of_layers(anchors_Xm3.unflatten(0, (B, C)).flatten(1, 2))
        for number, layer in enumerate(self.layers):
            if self.parts and number % 2:
                x_BMD = x.unflatten(0, (B, C)).flatten(1, 2)
                x_BMD = self._run(self._layer, layer, x_BMD, all_of_them)
                x = x_BMD.unflatten(1, (C, -1)).flatten(0, 1)
            else:
                x = self._run(self._layer, layer, x, own)
        return {**self._context_of(x, anchors_Xm3), "present_BC": present_BC}

    def decode_fields(
        self, context: dict, queries_BQ3: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """-> (sdf_BQ, logits_BQC, class_sdf_BQC). What a query is asked with is the same for all classes, and made
        once."""
        layer, present_BC = self.decoder_cross_attn.fn, context["present_BC"]
        B, C = present_BC.shape
        q_BHQd, k_XHmd, v_XHmd = self._decoder_parts(context, queries_BQ3)
        q_XHQd = q_BHQd.unsqueeze(1).expand(-1, C, -1, -1, -1).flatten(0, 1)
        attended_XHQd = attention.fused_attention(q_XHQd, k_XHmd, v_XHmd, layer.scale)
        sdf_BCQ = self._outputs(attended_XHQd.unflatten(0, (B, C)), queries_BQ3)[0]
        given_BC = present_BC & self.known_classes
        class_sdf_BQC = torch.where(given_BC.unsqueeze(-1), sdf_BCQ, ABSENT_DISTANCE).transpose(1, 2)
        logits_BQC = logits_of_distances(class_sdf_BQC).masked_fill(~self.known_classes, UNKNOWN_LOGIT)
        return class_sdf_BQC.min(-1).values, logits_BQC, class_sdf_BQC

    def _of_classes(self, outputs_XQ0, far_BQ):
        return None, None

    def class_sdf_gradient(self, context: dict, points_BE3: torch.Tensor) -> torch.Tensor:
        """d class distance / d point (B, E, C, 3), itself differentiable, of each class at each point. What a class
        without points has there means nothing."""
        B, C = context["present_BC"].shape
        points_XE3 = points_BE3.unsqueeze(1).expand(-1, C, -1, -1).flatten(0, 1)
        return super().sdf_gradient(context, points_XE3).unflatten(0, (B, C)).transpose(1, 2)

    def sdf_gradient(self, context: dict, points_BE3: torch.Tensor) -> torch.Tensor:
        """As in `VecSetAutoencoder`: the slope of the smallest class distance; 0 where there is no class."""
        with torch.no_grad():
            class_sdf_BEC = self.decode_fields(context, points_BE3)[2]
        least_BE = class_sdf_BEC.argmin(-1)
        index_BE13 = least_BE[..., None, None].expand(-1, -1, 1, 3)
        gradient_BE3 = self.class_sdf_gradient(context, points_BE3).gather(2, index_BE13).squeeze(2)
        given_BC = context["present_BC"] & self.known_classes
        return torch.where(given_BC.gather(1, least_BE).unsqueeze(-1), gradient_BE3, 0.0)

    # --- both

    def _context(self, surface_BNF, noise_BML, num_latents, states_BC, noise_BK):
        latents_BML, kl_B, present_BC = self._encode(surface_BNF, noise_BML, num_latents, states_BC)
        return latents_BML, self.process_latents(latents_BML, present_BC), kl_B

    def _slopes(self, context, points_BE3):
        """The slopes of all class distances, and which of them mean something."""
        return {
            "class_gradient_BEC3": self.class_sdf_gradient(context, points_BE3),
            "present_BC": context["present_BC"],
        }


def require_one_each(where: str, num_latents: int, num_classes: int) -> None:
    """Raises InputError, naming the option `where`, where there are fewer latents than classes."""
    if num_latents < num_classes:
        raise InputError(where, f"at least a latent for each of {num_classes} classes", num_latents, "choose more")
