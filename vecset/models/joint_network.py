"""The VecSet autoencoder of all structures in one field: labelled surface points -> a set of latent vectors -> a field.

The architecture is that of the public VecSetX release (Zhang et al., https://github.com/1zb/VecSetX, MIT; after
3DShape2VecSet, Zhang, Tang, Niessner, Wonka, SIGGRAPH 2023), with 3 + C numbers per surface point in, a query embedding
of its own, and 1 + C numbers per query out: the signed distance to the union (unit, negative inside) and C class
logits. Named extensions, off by default: `anchors`, `rotary`, `fps_class_gap`, `fps_density`, `decoder_layers`,
`class_outputs`, `states`, `answer_noise`, `shape_model`, `fit_at_queries` (see `VecSetAutoencoder`).

Shapes: B cases, N surface points, F = 3 + C, Q queries, E Eikonal points, M latents of L numbers, D width.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from vecset.common.errors import InputError
from vecset.common.structure_state import ABSENT_DISTANCE, State
from vecset.models import attention, attention_slope
from vecset.models.answer_noise import AnswerNoise
from vecset.models.attention import Attention, FeedForward, Places, PreNorm
from vecset.models.bottleneck import BOTTLENECKS
from vecset.models.embedding import PointEmbed, farthest_point_sampling, parse_density, spread_in_ball
from vecset.models.folding import queries_of_points, read_points
from vecset.models.labels import UNKNOWN_LOGIT, logits_of_distances
from vecset.models.options import CLASS_OUTPUTS
from vecset.models.proposed_distances import ProposedDistances
from vecset.models.shape_model import ShapeModel, with_proposals


class VecSetAutoencoder(nn.Module):
    """query_type: 'learnable' (M learned tokens read the surface) or 'point' (M surface points, chosen by farthest
    point sampling, do). Options beyond the public architecture:

    anchors         every latent has a place in space: learned for 'learnable', the chosen point for 'point' (then 3
                    more numbers are stored per latent). Its embedding is added to the latent, and
                    -exp(g_h) |x - anchor|^2 to the logits of both cross-attentions, one g per head, so that attention
                    is local from the first step.
    rotary          with anchors: all attention depends on relative places only (attention.py, `Attention`), and there
                    is a residual round the decoder's attention. A latent then describes the shape round its anchor
                    wherever that is, so that what is learned at one place holds at all.
    fps_class_gap   for point queries: points of two classes count as at least so far apart (unit) in the farthest point
                    sampling that chooses the latents. From 2 on every structure is covered on its own, all equally
                    densely: thin ones, which lie on others, get latents of their own.
    fps_density     with fps_class_gap: "9:3,10:2" puts latents 3 times as close on class 9, twice as close on class 10.
                    A thin structure has little surface and much shape: at the others' spacing one latent would have to
                    describe ten diameters of a vessel.
    decoder_layers  0: as published, no residual round the decoder's attention. n > 0: a residual round it and n
                    feed-forward blocks behind it.
    class_outputs   what the network says of the classes beside the union's distance. 'logits': C logits. 'distances':
                    C signed distances to the classes, 1 + C numbers out; the logits are made from them, so the label is
                    the class of the smallest. 'both': C logits, which give the label, then C class distances, which
                    are trained beside them, 1 + 2 C numbers out.
    states          the encoder is told the state of every class (vecset/imaging/structure_state.py: given, absent,
                    unknown or cut): a learned vector per class and state, the sum of which is added to every query that
                    reads the surface. Distances have a learned multiple of max(|x| - 1, 0) added: what is seen lies in
                    the unit ball, the rest of the heart may lie beyond it, and embedded places, which are periodic,
                    cannot tell a place far out from one in the heart.
    answer_noise    with states: how many random numbers steer what does not follow from what is seen
                    (answer_noise.py); 0: one answer.
    shape_model     with states, anchors and point queries: the sizes of a `ShapeModel` (shape_model.py), whose
                    proposals of what is unknown or cut the encoder reads beside what is seen, marked by a learned
                    vector. Latents lie on both, as if it were a whole heart. None: without.
    fit_at_queries  with shape_model: the decoder is told at every query the distances of the fitted model; the fit is
                    stored as the last rows of the latents (proposed_distances.py).
    """

    decoder_passes = 1  # how often a query goes through the decoder

    def __init__(
        self,
        *,
        num_classes: int,
        query_type: str,
        num_latents: int,
        dim: int,
        depth: int,
        code_dim: int,
        bottleneck: str,
        anchors: bool = False,
        rotary: bool = False,
        fps_class_gap: float = 0.0,
        fps_density: str = "",
        decoder_layers: int = 0,
        class_outputs: str = "logits",
        states: bool = False,
        answer_noise: int = 0,
        shape_model: dict | None = None,
        fit_at_queries: bool = False,
    ):
        super().__init__()
        if rotary and not anchors:
            raise InputError.because("--rotary", "only latents with places (--anchors) can be rotary", "give both")
        if rotary and dim % 2:
            raise InputError.because("--rotary", f"dim must be even, not {dim}", "choose another dim")
        if fps_class_gap and query_type != "point":
            raise InputError.because(
                "--fps_class_gap",
                "only point queries are chosen by farthest point sampling",
                "leave it out, or choose a model with point queries (point_vec...)",
            )
        self.rotary, self.fps_class_gap = rotary, fps_class_gap
        self.register_buffer("density_C", parse_density(fps_density, num_classes), persistent=False)
        if fps_density and not fps_class_gap:
            raise InputError.because("--fps_density", "it has an effect only with --fps_class_gap", "give both")
        if class_outputs not in CLASS_OUTPUTS:
            raise InputError("--class_outputs", " or ".join(CLASS_OUTPUTS), class_outputs)
        self.class_outputs = class_outputs
        self.num_classes, self.query_type, self.num_latents, self.dim = num_classes, query_type, num_latents, dim
        self.point_embed = PointEmbed(dim, num_features=num_classes)
        self.query_embed = PointEmbed(dim)
        if query_type == "learnable":
            self.latents = nn.Embedding(self._queries_per_field(num_latents), dim)
        self.told_states = states
        if states:  # of zeros: a network that was trained without them stays the same function
            self.state_embed = nn.Parameter(torch.zeros(num_classes, len(State), dim))
            self.far_slope = nn.Parameter(torch.ones(()))
        self.shape_model = self.proposed_distances = None
        if shape_model:
            if not (states and anchors and query_type == "point"):
                raise InputError.because(
                    "--shape_model",
                    "it needs --observe, --anchors and a point_vec... model",
                    "give them, or leave it out",
                )
            self.shape_model = ShapeModel(num_classes, **shape_model)
            self.proposal_embed = nn.Parameter(torch.zeros(dim))
            if fit_at_queries:
                stored = code_dim + 3  # numbers of a latent and its place
                self.proposed_distances = ProposedDistances(num_classes, self.shape_model.num_modes, dim, stored)
        self.cross_attend_blocks = nn.ModuleList(
            [PreNorm(dim, Attention(dim, dim, rotary)), PreNorm(dim, FeedForward(dim))]
        )
        self.bottleneck = BOTTLENECKS[bottleneck](dim, code_dim)
        self.layers = nn.ModuleList(
            nn.ModuleList([PreNorm(dim, Attention(dim, None, rotary)), PreNorm(dim, FeedForward(dim))])
            for _ in range(depth)
        )
        if answer_noise and not states:
            raise InputError.because("--answer_noise", "it has an effect only with --observe", "give both")
        self.noise_numbers = answer_noise
        if answer_noise:
            self.answer_noise = AnswerNoise(answer_noise, dim, depth + 1)
        self.decoder_cross_attn = PreNorm(dim, Attention(dim, dim, rotary))
        self.decoder_layers = nn.ModuleList(
            PreNorm(dim, FeedForward(dim, factor=2)) for _ in range(decoder_layers)
        )  # every query pays for them
        self.to_outputs = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, self._num_outputs()))
        nn.init.zeros_(self.to_outputs[1].weight)
        nn.init.zeros_(self.to_outputs[1].bias)
        self.register_buffer("known_classes", torch.ones(num_classes, dtype=torch.bool))
        self.anchored = anchors
        if anchors:
            heads = self.decoder_cross_attn.fn.heads
            # one latent's share of the unit ball has radius M^(-1/3); heads look about one to three times as far, or
            # half of that where rotary latents lie on surfaces and so nearer to each other (docs/log.md)
            share = num_latents ** (-1 / 3) * (0.5 if rotary and query_type == "point" else 1.0)
            reach = share * torch.linspace(1.0, 3.0, heads)
            gain = (0.5 / reach.square()).log()
            self.encoder_gain, self.decoder_gain = nn.Parameter(gain.clone()), nn.Parameter(gain.clone())
            if query_type == "learnable":
                self.anchors = nn.Parameter(0.9 * spread_in_ball(self._queries_per_field(num_latents)))
        self.recompute = False
        self.fold = True  # False: a token for every point, the reference of folding.py
        self._read, self._layer, self.compiled = _read_and_feed, _attend_and_feed, False

    def _queries_per_field(self, num_latents):
        """How many latents a field is made of, where the network has `num_latents` in all."""
        return num_latents

    def latent_words(self) -> str:
        """What there is to say about the number of latents that are used; "" where it is the one asked for."""
        return ""

    def _num_outputs(self):
        """How many numbers come out per query."""
        return 1 + self.num_classes * (2 if self.class_outputs == "both" else 1)

    @property
    def has_class_distances(self) -> bool:
        """Whether it gives a signed distance per class."""
        return self.class_outputs != "logits"

    @property
    def _residual(self):
        """Whether a query's embedding is added to what it has read."""
        return self.rotary or len(self.decoder_layers) > 0

    def checkpoint_activations(self, on: bool = True) -> None:
        """Keeps only the inputs of each layer and of the decoder, and computes the rest again in the backward pass:
        more time, a fraction of the memory, the same numbers."""
        self.recompute = on

    def compile_blocks(self) -> None:
        """Compiles the encoder's attention and the layers of the latent stack. Not the decoder, whose slope is taken by
        autograd inside the forward pass."""
        self._read, self._layer = torch.compile(_read_and_feed), torch.compile(_attend_and_feed)
        self.compiled = True

    def use_latents(self, num_latents: int) -> None:
        """From now on another number of latents than the name says: no weight of a model with point queries depends on
        it. More latents describe a heart in more detail, fewer mean fewer numbers to store. Raises InputError for a
        model with learned queries."""
        if self.query_type != "point":
            raise InputError.because(
                "--num_latents",
                f"the {self.num_latents} queries of this model are learned, their number is fixed",
                "leave it out, or train a model with point queries (point_vec...)",
            )
        self.num_latents = num_latents

    def _run(self, function, *arguments):
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
        return function(*arguments)

    def set_known_classes(self, annotated: torch.Tensor | Sequence[bool]) -> None:
        """`annotated` (C,) bool: the classes that some training case was annotated for. The logits of the others are
        never trained, so they must not win anywhere: no label map, mesh or metric may hold such a class."""
        self.known_classes.copy_(torch.as_tensor(annotated, dtype=torch.bool))

    # --- surface -> latents

    def encode(
        self, surface_BNF: torch.Tensor, num_latents: int | None = None, states_BC: torch.Tensor | None = None
    ) -> torch.Tensor:
        """-> latents_BML; with anchors and point queries the last three numbers of each latent are its place (unit).
        num_latents: for point queries, another number of latents than the model's own, in this pass. states_BC: `State`
        of every class, i64, of a network that is told them."""
        return self._encode(surface_BNF, None, num_latents, states_BC)[0]

    def _encode(self, surface_BNF, noise_BML=None, num_latents=None, states_BC=None):
        """-> latents_BML, and kl_B or None."""
        if self.told_states != (states_BC is not None):
            raise ValueError(f"states of the classes {'are missing' if self.told_states else 'for a network without'}")
        points_BN3, marks_BND, seen = surface_BNF[..., :3], None, surface_BNF.shape[1]
        if self.shape_model is not None:
            proposed = with_proposals(self.shape_model, surface_BNF, states_BC)
            surface_BNF, points_BN3 = proposed.surface_BNF, proposed.places_BN3
            marks_BND = proposed.proposed_BN1 * self.proposal_embed
        x, anchors_BM3 = self._queries_of_surface(surface_BNF, num_latents, marks_BND, seen)
        if self.told_states:
            x = x + self._told(states_BC).to(x.dtype)
        places = Places(anchors_BM3, points_BN3, self.encoder_gain.exp()) if self.anchored else None
        x = self._run(
            self._read, self.cross_attend_blocks, self.point_embed, x, surface_BNF, places, self.fold, marks_BND
        )
        latents_BML, kl_B = self.bottleneck.pre(x, None if noise_BML is None else noise_BML[:, : x.shape[1]])
        if self.anchored and self.query_type == "point":
            latents_BML = torch.cat([latents_BML, anchors_BM3.to(latents_BML.dtype)], dim=-1)
        if self.proposed_distances is not None:
            rows_BRL = self.proposed_distances.rows_of(proposed.fit, proposed.wanted_BC)
            latents_BML = torch.cat([latents_BML.to(rows_BRL.dtype), rows_BRL], dim=1)
        return latents_BML, kl_B

    @property
    def stored_rows(self) -> int:
        """How many of the last rows of the latents are no latents but numbers of the shape model's fit."""
        return 0 if self.proposed_distances is None else self.proposed_distances.num_rows

    def _told(self, states_BC):
        """(B, 1, D): what the encoder is told of the classes' states."""
        classes_C = torch.arange(self.num_classes, device=states_BC.device)
        return self.state_embed[classes_C, states_BC].sum(1, keepdim=True)

    def _queries_of_surface(self, surface_BNF, num_latents=None, marks_BND=None, seen=None):
        """The tokens that read the surface (B, M, D), and with anchors their places (B, M, 3), else None. marks_BND:
        what is added to the tokens of points that are chosen. seen: how many points are no proposals; None: all."""
        if self.query_type == "learnable":
            if num_latents not in (None, self.num_latents):
                raise ValueError(f"{num_latents} latents of a model whose {self.num_latents} queries are learned")
            x = self.latents.weight.expand(len(surface_BNF), -1, -1)
            if not self.anchored:
                return x, None
            anchors_BM3 = self.anchors.expand(len(surface_BNF), -1, -1)
            return x + self.query_embed(anchors_BM3), anchors_BM3
        points_BN3 = surface_BNF[..., :3]
        labels_BN = surface_BNF[..., 3:].argmax(-1) if self.fps_class_gap else None
        index_BM1 = farthest_point_sampling(
            points_BN3, num_latents or self.num_latents, labels_BN, self.fps_class_gap, self.density_C, seen
        ).unsqueeze(-1)
        x = self.point_embed(surface_BNF.gather(1, index_BM1.expand(-1, -1, surface_BNF.shape[-1])))
        if marks_BND is not None:
            x = x + marks_BND.gather(1, index_BM1.expand(-1, -1, self.dim)).to(x.dtype)
        return x, points_BN3.gather(1, index_BM1.expand(-1, -1, 3)) if self.anchored else None

    # --- latents -> field

    def process_latents(self, latents_BML: torch.Tensor, noise_BK: torch.Tensor | None = None) -> dict:
        """The latent stack, and the decoder's keys and values: everything that is the same for all queries of a case.
        Returns a context for `decode`. noise_BK: unit normal numbers, for one of many answers of a network with
        `answer_noise`; None: the one answer, that of zeros."""
        fitted, latents_BML = self._fit_and_latents(latents_BML)
        x, anchors_BM3 = self._tokens_of(latents_BML)
        places = self._places_of_layers(anchors_BM3)
        if noise_BK is not None:
            x = self.answer_noise(0, x, noise_BK)
        for number, layer in enumerate(self.layers, 1):
            x = self._run(self._layer, layer, x, places)
            if noise_BK is not None:
                x = self.answer_noise(number, x, noise_BK)
        return {**self._context_of(x, anchors_BM3), "fitted": fitted}

    def _fit_and_latents(self, latents_BML):
        """(`FittedShape` or None, the latents that are tokens) of what `encode` gives."""
        if not self.stored_rows:
            return None, latents_BML
        latents_BML, rows_BRL = latents_BML[:, : -self.stored_rows], latents_BML[:, -self.stored_rows :]
        return self.proposed_distances.read(rows_BRL, self.shape_model), latents_BML

    def _places_of_layers(self, anchors_BM3):
        """Places for layers of the stack in which tokens at these places see each other. All rotary layers of a network
        have the same frequencies (they follow from its width), so the turns are made once for all; compiled layers make
        their own, without complex numbers."""
        if not self.rotary:
            return None
        places = Places(anchors_BM3, anchors_BM3)
        return places if self.compiled or not self.layers else places.turned(self.layers[0][0].fn.frequencies)

    def _tokens_of(self, latents_BML):
        """(tokens (B, M, D), their places (B, M, 3) or None) of latents."""
        anchors_BM3 = None
        if self.anchored and self.query_type == "point":
            latents_BML, anchors_BM3 = latents_BML[..., :-3], latents_BML[..., -3:].float()
        x = self.bottleneck.post(latents_BML)
        if self.query_type == "learnable":
            x = x + self.latents.weight
            if self.anchored:
                anchors_BM3 = self.anchors.expand(len(latents_BML), -1, -1)
        if self.anchored:
            x = x + self.query_embed(anchors_BM3)
        return x, anchors_BM3

    def _context_of(self, x_BMD, anchors_BM3):
        return {
            "latents_BMD": x_BMD,
            "keys_values": self._keys_values(x_BMD, anchors_BM3),
            "anchors_BM3": anchors_BM3,
        }

    def _keys_values(self, x_BMD, anchors_BM3):
        """The decoder's keys and values of the latents."""
        layer = self.decoder_cross_attn.fn
        return layer.keys_values(x_BMD, layer.turn(anchors_BM3))

    def decode(self, context: dict, queries_BQ3: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """-> (sdf_BQ, logits_BQC) in the parameters' float32."""
        return self.decode_fields(context, queries_BQ3)[:2]

    def decode_fields(
        self, context: dict, queries_BQ3: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """-> (sdf_BQ, logits_BQC, class_sdf_BQC): as `decode`, and the signed distances to the classes (unit, negative
        inside) of a network that has them, else None."""
        layer = self.decoder_cross_attn.fn
        attended = attention.fused_attention(*self._decoder_parts(context, queries_BQ3), layer.scale)
        return self._outputs(attended, queries_BQ3, context.get("fitted"))

    def _decoder_parts(self, context, queries_BQ3):
        """(q, k, v) of the decoder's attention."""
        block = self.decoder_cross_attn
        if self.fold:
            q_BQD = queries_of_points(block, self.query_embed, queries_BQ3)
        else:
            q_BQD = block.fn.to_q(block.norm(self.query_embed(queries_BQ3)))
        places = Places(queries_BQ3, context["anchors_BM3"], self.decoder_gain.exp()) if self.anchored else None
        return block.fn.parts(q_BQD, context["keys_values"], places)

    def _outputs(self, attended_BHQd, queries_BQ3, fitted=None):
        """Distance, logits and class distances or None, of what the queries have read."""
        layer = self.decoder_cross_attn.fn
        x = layer.out(attended_BHQd, layer.turn(queries_BQ3))
        if self._residual:
            embedded_BQD = self.query_embed(queries_BQ3)
            x = x + (embedded_BQD if x.ndim == 3 else embedded_BQD.unsqueeze(1))
        if fitted is not None:
            x = x + self.proposed_distances(self.shape_model, fitted, queries_BQ3)
        for feed_forward in self.decoder_layers:
            x = feed_forward(x) + x
        with torch.autocast(x.device.type, enabled=False):  # a distance of 8 bits would be off by 0.4 %
            outputs = self.to_outputs(x.to(self.to_outputs[1].weight.dtype))
        far_BQ = self.far_slope * _beyond_unit_ball(queries_BQ3) if self.told_states else 0.0
        return (outputs[..., 0] + far_BQ, *self._of_classes(outputs[..., 1:], far_BQ))

    def _of_classes(self, outputs_BQK, far_BQ):
        """(logits_BQC, class_sdf_BQC or None) from the numbers behind the union's distance."""
        unknown = ~self.known_classes
        if not self.has_class_distances:
            return outputs_BQK.masked_fill(unknown, UNKNOWN_LOGIT), None
        class_sdf_BQC = outputs_BQK[..., -self.num_classes :]
        if self.told_states:
            class_sdf_BQC = class_sdf_BQC + far_BQ.unsqueeze(-1)
        class_sdf_BQC = class_sdf_BQC.masked_fill(unknown, ABSENT_DISTANCE)
        logits = outputs_BQK[..., : self.num_classes] if self.class_outputs == "both" else None
        logits = logits_of_distances(class_sdf_BQC) if logits is None else logits
        return logits.masked_fill(unknown, UNKNOWN_LOGIT), class_sdf_BQC

    def sdf_gradient(self, context: dict, points_BE3: torch.Tensor) -> torch.Tensor:
        """d sdf / d point (B, E, 3), itself differentiable. Only the decoder stands between a query and its distance,
        so only it is run, in float32 whatever the autocast. Attention's part is written out (attention_slope.py): no
        kernel is differentiated twice."""
        create_graph, scale = torch.is_grad_enabled(), self.decoder_cross_attn.fn.scale

        def gradient(points):
            # two leaves: a query's way through attention, and its way beside it (the residual, the turning back)
            through, beside = (points.detach().requires_grad_(True) for _ in range(2))
            with torch.enable_grad():
                q, k, v = self._decoder_parts(exact, through)
                attended = attention.fused_attention(q, k, v, scale)
                sdf = self._outputs(attended, beside, exact.get("fitted"))[0]
                ends = (attended, beside) if self._residual or self.told_states else (attended,)
                direction, *direct = torch.autograd.grad(sdf.sum(), ends, create_graph=create_graph)
                slope = attention_slope.slope_kernel(q, k, v, direction, scale)
                return sum(direct, torch.autograd.grad(q, through, slope, create_graph=create_graph)[0])

        with torch.enable_grad(), torch.autocast(points_BE3.device.type, enabled=False):
            exact, dtype = context, self.to_outputs[1].weight.dtype
            if context["keys_values"][0].dtype != dtype:  # of an autocast
                latents_BMD = context["latents_BMD"].to(dtype)
                exact = {**context, "keys_values": self._keys_values(latents_BMD, context["anchors_BM3"])}
            return self._run(gradient, points_BE3) if create_graph else gradient(points_BE3)

    def forward(
        self,
        surface_BNF: torch.Tensor,
        queries_BQ3: torch.Tensor,
        eikonal_BE3: torch.Tensor | None = None,
        noise_BML: torch.Tensor | None = None,
        num_latents: int | None = None,
        states_BC: torch.Tensor | None = None,
        answers_B2K: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Encodes and decodes, in one call so that DDP sees all of it: a dict with sdf_BQ, logits_BQC, and where they
        apply class_sdf_BQC, kl_B (of a KL bottleneck), gradient_BE3 (Eikonal points are given). noise_BML: the KL
        bottleneck's unit normal draw, of which the first `num_latents` rows are used. num_latents, states_BC: as in
        `encode`. answers_B2K: the numbers of two answers of a network with `answer_noise`: the first is given as
        above, sdf_BQ and logits_BQC of the second under `other`."""
        noise_B2K = (None, None) if answers_B2K is None else answers_B2K.unbind(1)
        latents_BML, context, kl_B = self._context(surface_BNF, noise_BML, num_latents, states_BC, noise_B2K[0])
        sdf_BQ, logits_BQC, class_sdf_BQC = self._run(self.decode_fields, context, queries_BQ3)
        outputs = {"sdf_BQ": sdf_BQ, "logits_BQC": logits_BQC}
        if class_sdf_BQC is not None:
            outputs["class_sdf_BQC"] = class_sdf_BQC
        if kl_B is not None:
            outputs["kl_B"] = kl_B
        if eikonal_BE3 is not None:
            outputs |= self._slopes(context, eikonal_BE3)
        if answers_B2K is not None:
            context = self.process_latents(latents_BML, noise_B2K[1])
            sdf_BQ, logits_BQC, _ = self._run(self.decode_fields, context, queries_BQ3)
            outputs["other"] = {"sdf_BQ": sdf_BQ, "logits_BQC": logits_BQC}
        return outputs

    def _context(self, surface_BNF, noise_BML, num_latents, states_BC, noise_BK):
        """(latents_BML, context, kl_B or None) of surfaces."""
        latents_BML, kl_B = self._encode(surface_BNF, noise_BML, num_latents, states_BC)
        return latents_BML, self.process_latents(latents_BML, noise_BK), kl_B

    def _slopes(self, context, points_BE3):
        """What `forward` adds where slopes are asked for."""
        return {"gradient_BE3": self.sdf_gradient(context, points_BE3)}


def _attend_and_feed(blocks, x, places):
    """One layer of the latent stack: self-attention and feed-forward, each with its residual."""
    attend, feed_forward = blocks
    x = attend(x, places=places) + x
    return feed_forward(x) + x


def _read_and_feed(blocks, embed, x, surface_BNF, places, fold, marks_BND=None):
    """The encoder's pair of blocks: latents read the surface, then feed-forward, each with its residual. marks_BND:
    what is added to the points' tokens."""
    attend, feed_forward = blocks
    if fold and places is None:
        x = read_points(attend, embed, x, surface_BNF) + x
    else:
        context = embed(surface_BNF)
        if marks_BND is not None:
            context = context + marks_BND.to(context.dtype)
        x = attend(x, context=context, places=places) + x
    return feed_forward(x) + x


def _beyond_unit_ball(points_BQ3):
    """(B, Q) max(|x| - 1, 0), with slope 0 in the ball, its middle included."""
    return points_BQ3.square().sum(-1).clamp_min(1).sqrt() - 1
