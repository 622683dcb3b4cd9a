"""How many floating point operations a training step asks for, and how many a card can do per second.

A product and a sum are two operations. Counted are matrix products, those of attention included, forward and backward,
and those of the slope that the Eikonal loss takes, which is decoded once more and differentiated twice. Not counted are
what has no matrix product (norms, activations, the choice of latents, losses, the optimizer), and what is done again to
save memory by `--checkpoint_activations` and inside fused attention kernels. So the share of a card's peak is the model
FLOP utilisation (MFU) of Chowdhery et al., PaLM, JMLR 2023, appendix B.

The count is a formula, so it costs nothing, and is the same compiled or not, on every device (as in float32: 16 bit
needs eight more channels per head for distances). tests/models/test_operations.py compares it with PyTorch's own count
(torch.utils.flop_counter) of every kind of network.
"""

import re

from vecset.models.attention import HEAD_DIM
from vecset.models.autoencoder import EXTENSIONS, parse_model_name
from vecset.models.embedding import FREQUENCIES
from vecset.models.shape_model import FIT_POINTS, STEPS, SURFACE_STEPS, num_proposals

# TFLOP/s of matrix products of (bf16, tf32, fp32), dense, by the names that torch.cuda.get_device_name gives. From
# NVIDIA's data sheets, where most figures are with sparsity: half of those; GeForce RTX and RTX 6000 Ada: the white
# papers of GA102 and Ada, bf16 with float32 accumulation. fp32 is that of the CUDA cores.
PEAK_TFLOPS = {
    r"NVIDIA H200": (989, 494, 67),
    r"NVIDIA H200 NVL": (835, 417, 60),
    r"NVIDIA H100 80GB HBM3": (989, 494, 67),
    r"NVIDIA H100 NVL": (835, 417, 60),
    r"NVIDIA H100 PCIe": (756, 378, 51),
    r"NVIDIA A100(-SXM4|-PCIE)?[- ]\d+GB( PCIe)?": (312, 156, 19.5),
    r"NVIDIA A40": (149.7, 74.8, 37.4),
    r"NVIDIA A30": (165, 82, 10.3),
    r"NVIDIA A10": (125, 62.5, 31.2),
    r"NVIDIA L40S": (362, 183, 91.6),
    r"NVIDIA L4": (121, 60, 30.3),
    r"NVIDIA RTX A6000": (154.8, 77.4, 38.7),
    r"NVIDIA RTX 6000 Ada Generation": (364, 182, 91.1),
    r"NVIDIA GeForce RTX 4090": (165, 82.6, 82.6),
    r"NVIDIA GeForce RTX 3090": (71, 35.6, 35.6),
}

_BASIS = 3 * FREQUENCIES  # projections of a point
_POINT = 2 * _BASIS + 3  # numbers that a place is embedded by
_DISTANCE_CHANNELS = 8  # of a head, with places (attention.append_distance_term, float32)
KNOWN = {"name", "num_classes", *EXTENSIONS}  # what the formula knows of; another option has no count


def card_peak(name: str, precision: str) -> float | None:
    """Operations per second that the card `name` can do in 'bf16', 'tf32' or 'fp32'; None for a card that is not known,
    and for a part of one (MIG)."""
    for pattern, peaks in PEAK_TFLOPS.items():
        if re.fullmatch(pattern, name):
            return 1e12 * peaks[("bf16", "tf32", "fp32").index(precision)]
    return None


def pass_operations(
    config: dict, cases: int, surface: int, decoded: int, slope: int = 0, num_latents: int | None = None
) -> float | None:
    """Operations of one forward and backward pass.

    config: arguments of `build_model`; cases: in the pass, whatever their number the maps of folding.py are made once;
    surface: points that the encoder reads; decoded: points that
    are decoded; slope: Eikonal and normal points; num_latents: in this pass, None for the network's own. None where the
    network has an option that the formula does not know."""
    unknown = [name for name in config if name not in KNOWN]
    network, outputs = config.get("network", "joint"), config.get("class_outputs", "logits")
    if unknown or network not in ("joint", "per_class", "parts") or outputs not in ("logits", "distances", "both"):
        return None
    sizes, C = parse_model_name(config["name"]), config["num_classes"]
    fields = 1 if network == "joint" else C  # each with its own points and latents
    net = _Network(
        sizes["dim"],
        sizes["code_dim"] if sizes["bottleneck"] else 0,
        sizes["bottleneck"] == "kl",
        sizes["query_type"] == "point",
        _POINT + C,
        bool(config.get("anchors")),
        bool(config.get("rotary")),
        int(config.get("decoder_layers") or 0),
        1 if fields > 1 else 1 + C * (2 if outputs == "both" else 1),
    )
    fit = told = 0
    if shape := config.get("shape_model"):
        proposals = num_proposals(surface)
        fit, surface = _shape_fit(min(surface, FIT_POINTS), proposals, shape["modes"]), surface + proposals
        if config.get("fit_at_queries"):  # the distances at the model's cells, then at queries and slopes
            field = 2 * shape["cells"] * (1 + shape["modes"])
            told = field + net.fit_told(decoded, C)
            fit += told + net.slope_of_fit_told(slope, C)
    m, n = (num_latents or sizes["num_latents"]) // fields, max(1, surface // fields)
    depth = sizes["depth"]
    over_all = depth // 2 if network == "parts" else 0
    per_case = fields * (net.encoder(m, n) + net.tokens(m) + (depth - over_all) * net.layer(m, 1))
    per_case += over_all * net.layer(m, fields)
    per_case += (2 if over_all else 1) * net.turns(fields * m, 2) if depth else 0  # of all layers
    per_case += fields * net.linear(m, net.D, 2 * net.D) + net.turns(fields * m, 2)  # the decoder's keys and values
    per_case += net.queries(decoded) + net.beside(decoded) + fields * net.decoded(decoded, m)
    per_case += fields * net.slope(slope, m)
    if numbers := config.get("answer_noise"):  # two answers: all but encoder and slope is done twice
        per_case += net.tokens_of_latents(m) + depth * net.layer(m, 1) + (net.turns(m, 2) if depth else 0)
        per_case += net.linear(m, net.D, 2 * net.D) + net.turns(m, 2)
        per_case += net.queries(decoded) + net.beside(decoded) + net.decoded(decoded, m)
        per_case += 2 * (depth + 1) * net.linear(1, numbers, 2 * net.D, 2) + told
    return cases * (per_case + fit) + net.maps(1 + (slope > 0) + bool(config.get("answer_noise")))


def _shape_fit(points, proposals, modes):
    """Fitting a shape model, and its proposals; nothing of it is differentiated."""

    def distances(places):  # of eight corners: mean and modes there, and the shape at the corners
        return 2 * places * 8 * (2 * modes + 1)

    numbers, turn = 7 + modes, 2 * 3 * 3
    steps = STEPS * (distances(points) + turn * points + 2 * points * numbers**2 + 2 * 3 * turn)
    return steps + SURFACE_STEPS * distances(proposals) + turn * proposals


class _Network:
    """The parts of a network by their operations, forward and backward. In a backward pass a linear layer costs its
    forward once for the gradient of its weights and once for that of its input, which points do not need."""

    def __init__(self, D, code, kl, point_queries, features, anchors, rotary, decoder_layers, outputs):
        self.D, self.code, self.kl, self.point_queries, self.F = D, code, kl, point_queries, features
        self.anchors, self.rotary, self.decoder_layers, self.outputs = anchors, rotary, decoder_layers, outputs
        self.heads = D // min(HEAD_DIM, D)

    @staticmethod
    def linear(tokens, inputs, outputs, times=3):
        return times * 2 * tokens * inputs * outputs

    def attention(self, tokens, keys, places, times=3):
        """The two products of all heads. places: the distances of both enter the logits."""
        width = self.D + self.heads * _DISTANCE_CHANNELS * places
        return times * 4 * tokens * keys * width

    def turns(self, tokens, times=1):
        """The angles of a rotary layer: three coordinates on the frequencies of half the channels."""
        return times * 2 * tokens * 3 * (self.D // 2) if self.rotary else 0

    @staticmethod
    def basis(tokens):
        """Sines and cosines of what."""
        return 2 * tokens * 3 * _BASIS

    def embed(self, tokens, numbers, through=False):
        """through: gradients go through the embedding to the places, which are trained, or part of the latents."""
        return (2 if through else 1) * self.basis(tokens) + self.linear(tokens, numbers, self.D, 3 if through else 2)

    def feed_forward(self, tokens, factor=4):
        return self.linear(tokens, self.D, 2 * factor * self.D) + self.linear(tokens, factor * self.D, self.D)

    def encoder(self, m, n):
        D = self.D
        asked = self.embed(m, self.F) if self.point_queries else self.embed(m, _POINT, True) if self.anchors else 0
        if self.anchors:  # a token for every point
            read = self.embed(n, self.F) + self.linear(n, D, 2 * D) + self.attention(m, n, True)
            read += self.turns(n) + self.turns(m, 1 if self.point_queries else 2)
        else:  # folded: the points' own numbers, which need no gradient, are the keys and the values of every head
            padded = -(-self.F // 8) * 8
            read = self.basis(n) + 2 * self.linear(m, D, self.F)
            read += 2 * 4 * self.heads * m * n * padded
        return asked + read + 2 * self.linear(m, D, D) + self.feed_forward(m)

    def tokens(self, m):
        """The bottleneck there and back, and the places' embedding."""
        return self.linear(m, self.D, self.code) * (2 if self.kl else 1) + self.tokens_of_latents(m)

    def tokens_of_latents(self, m):
        """The way back from the bottleneck."""
        return self.linear(m, self.code, self.D) + (self.embed(m, _POINT, True) if self.anchors else 0)

    def layer(self, m, fields):
        """A layer of the latent stack on `fields` x m latents that see each other."""
        m *= fields
        linears = self.linear(m, self.D, 4 * self.D)
        return linears + self.attention(m, m, False) + self.feed_forward(m)

    def queries(self, tokens):
        """A query's own side of the decoder's attention, by the folded map of its numbers and a constant."""
        numbers = _POINT + 1
        folded = self.basis(tokens) + self.linear(tokens, numbers, numbers, 2)
        return folded + self.linear(tokens, numbers, self.D) + 2 * self.turns(tokens)  # there and back

    def maps(self, times):
        """What the folded maps cost, whatever the number of cases. times: how often the queries' map is made; the slope
        makes it again, and a second answer."""
        D, numbers = self.D, _POINT + 1
        queries = self.linear(numbers, D, numbers) + self.linear(D, D, numbers)
        surface = 0 if self.anchors else self.linear(2 * D, D, self.F) + self.linear(1, D, 2 * D)
        return times * queries + surface

    def beside(self, tokens):
        """The residual round the decoder's attention."""
        return self.embed(tokens, _POINT) if self.rotary or self.decoder_layers else 0

    def fit_told(self, tokens, classes):
        """What queries are told of a shape model's fit."""
        read = self.linear(tokens, 2 * classes + 2, self.D, 2) + self.linear(tokens, self.D, self.D)
        return 2 * tokens * 3 * 3 + read  # their places in the model first

    def slope_of_fit_told(self, points, classes):
        """With its slope, and both differentiated."""
        read = self.linear(points, 2 * classes + 2, self.D, 6) + self.linear(points, self.D, self.D, 6)
        return 4 * 2 * points * 3 * 3 + read

    def behind(self, tokens):
        """What stands behind the decoder's attention."""
        D = self.D
        blocks = self.decoder_layers * self.feed_forward(tokens, 2)
        return self.linear(tokens, D, D) + blocks + self.linear(tokens, D, self.outputs)

    def decoded(self, tokens, m):
        return self.attention(tokens, m, self.anchors) + self.behind(tokens)

    def slope(self, points, m):
        """Decoded once more, the slope taken, and both differentiated. Attention's own slope is three products, and
        eight more backward (attention_slope.py), two of which are made again rather than kept."""
        if not points:
            return 0
        numbers, attention = _POINT + 1, self.attention(points, m, self.anchors)
        attention += self.attention(points, m, self.anchors, 11) / 2
        asked = self.linear(points, numbers, self.D, 6) + self.linear(points, numbers, numbers, 6)
        asked += 4 * self.basis(points)
        beside = 2 * self.embed(points, _POINT, True) if self.rotary or self.decoder_layers else 0
        behind = 2 * self.behind(points) - self.linear(points, self.D, self.outputs)  # the last layer is linear
        return attention + asked + beside + behind + 8 * self.turns(points)
