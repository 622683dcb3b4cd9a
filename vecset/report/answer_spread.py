"""How much the answers to what is not seen have to be spread, so that their intervals hold as many truths as they say.

The numbers that steer an answer (vecset/models/answer_noise.py) are multiplied by one factor, which is found on hearts
that training has not seen. Of each a structure or group is left out (the next of the list for the next heart), and
answered `samples` times. For each structure left out follows by what factor the interval of its volume would have to be
wider or narrower, on both sides of the median, to end at the truth; the spread is the quantile of these factors that
holds the share `INTERVAL` of one more structure: split conformal calibration with an adaptive score (Romano, Patterson
and Candes, Adv. Neural Inf. Process. Syst. 2019), where volumes change with the numbers about linearly.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from vecset.common.errors import InputError
from vecset.fields.answers import INTERVAL, LEAST, interval_of
from vecset.fields.heart_field import CHUNK
from vecset.inference.heart_result import answers_of, decode_heart
from vecset.inference.model import LoadedModel
from vecset.inference.settings import OutputSettings
from vecset.report.completion import UnseenHeart, choices

GRID = 48  # voxels along the longest side of the image, at most about so many are decoded
LEAST_FACTORS = 20  # fewer do not hold a quantile of 0.9
SPREADS = 0.25, 4.0  # no spread beyond these is taken: the answers are then wrong in another way


def factor_of(volumes_N: np.ndarray, truth: float) -> float:
    """By what the interval of volumes (N,) has to be wider, on either side of their median, to end at `truth`. Infinite
    where the volumes do not differ on that side."""
    low, high = interval_of(volumes_N)
    middle = float(np.median(volumes_N))
    away, width = (truth - middle, high - middle) if truth > middle else (middle - truth, middle - low)
    if away == 0:
        return 0.0
    return away / width if width > 0 else float("inf")


def spread_of(factors: Sequence[float]) -> float:
    """The factor below which that of one more structure lies with probability INTERVAL: of n factors, the one of rank
    INTERVAL (n + 1), rounded up."""
    rank = math.ceil(INTERVAL * (len(factors) + 1))
    return float(np.sort(factors)[min(rank, len(factors)) - 1])


def find_spread(
    model: LoadedModel,
    hearts: Sequence[UnseenHeart],
    samples: int = LEAST,
    progress: Callable[[Iterable], Iterable] = lambda pairs: pairs,
    chunk: int = CHUNK,
) -> tuple[float, dict]:
    """(spread, {"hearts": case ids, "samples", "structures": how many were left out, "inside_before": share of truths
    in the intervals of answers as they are}). The model has no spread of its own. InputError where too few structures
    can be left out."""
    chosen = [choice for choice in choices(model.class_names, hearts[0].original.annotated) if choice.hidden]
    pairs = [(chosen[k % len(chosen)], heart) for k, heart in enumerate(hearts)]
    factors, used, settings = [], [], OutputSettings(meshes=False, complete=True)
    for left_out, heart in progress(pairs):
        if heart.lacks(left_out):
            continue
        case_id = heart.entry.case_id
        decoded = decode_heart(model, settings, case_id, heart.case(left_out), None, chunk, lambda line: None)
        counts = [np.bincount(labels.ravel(), minlength=256) for labels in answers_of(model, decoded, samples, chunk)]
        true_counts = np.bincount(heart.whole.truth_labels().ravel(), minlength=256)
        factors += [factor_of(np.array([n[c] for n in counts], float), float(true_counts[c])) for c in left_out.hidden]
        used.append(case_id)
    if len(factors) < LEAST_FACTORS:
        what = f"{len(factors)} structures could be left out of {len(hearts)} hearts"
        raise InputError.because("--answers_csv", what, f"give more hearts: {LEAST_FACTORS} structures at least")
    inside = float(np.mean(np.array(factors) <= 1))
    record = {"hearts": used, "samples": samples, "structures": len(factors), "inside_before": round(inside, 3)}
    spread = spread_of(factors)
    if not SPREADS[0] <= spread <= SPREADS[1]:
        words = f"answers would have to differ {spread:.2f} times as much, {SPREADS[0]} to {SPREADS[1]} are possible"
        raise InputError.because("--answers_csv", words, "train longer with --answer_noise, or leave --answers_csv out")
    return spread, record
