"""How wide the intervals of volumes of what is not seen have to be, so that they hold as many truths as they say.

Answers to one heart (vecset/models/answer_noise.py) tell how certain the network is, but they may all be too small or
too large, and differ more or less than truths do. So an interval is laid round the one answer, and one factor widens or
narrows all of them (`interval_round`). It is found on hearts that training has not seen. Of each a structure or group
is left out (the next of the list for the next heart), and answered `samples` times; the truth of each structure says
which factor it needs, and the one that is taken holds the share `INTERVAL` of one more structure: split conformal
calibration with an adaptive score (Romano, Patterson and Candes, Adv. Neural Inf. Process. Syst. 2019).
"""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from vecset.common.errors import InputError
from vecset.data.listed_case import ListedCase
from vecset.fields.answers import INTERVAL, LEAST, factor_to, interval_of
from vecset.fields.heart_field import CHUNK
from vecset.inference.heart_result import answers_of, decode_heart
from vecset.inference.model import LoadedModel
from vecset.inference.settings import OutputSettings
from vecset.report.completion import LeftOut, UnseenHeart, choices

GRID = 48  # voxels along the longest side of the image, at most about so many are decoded
LEAST_FACTORS = 20  # fewer do not hold a quantile of 0.9
MOST = 4.0  # a larger factor is refused: the answers then say nothing of what the truth may be


def factor_for_all(factors: Sequence[float]) -> float:
    """The factor with which the interval of one more structure holds its truth with probability INTERVAL: of n, the one
    of rank INTERVAL (n + 1), rounded up."""
    rank = math.ceil(INTERVAL * (len(factors) + 1))
    return float(np.sort(factors)[min(rank, len(factors)) - 1])


def left_out_of(model: LoadedModel, entries: Iterable[ListedCase]) -> list[tuple[LeftOut, UnseenHeart]]:
    """What is left out of which heart, a structure or group of each; without the hearts of which that says nothing
    (`UnseenHeart.lacks`). Each heart is read here, and is to be decoded on about GRID voxels along its longest side.
    InputError where fewer than LEAST_FACTORS structures are left out."""
    chosen, pairs, count = [], [], 0
    for count, entry in enumerate(entries, 1):
        heart = UnseenHeart(model, entry, seed=model.seed)
        heart.every = max(1, round(max(heart.original.frame.shape) / GRID))
        if count == 1:
            chosen = [choice for choice in choices(model.class_names, heart.original.annotated) if choice.hidden]
        left_out = chosen[(count - 1) % len(chosen)] if chosen else None
        if left_out and not heart.lacks(left_out):
            pairs.append((left_out, heart))
    structures = sum(len(left_out.hidden) for left_out, _ in pairs)
    if structures < LEAST_FACTORS:
        what = f"{structures} structures could be left out of {count} hearts"
        raise InputError.because("--answers_csv", what, f"give more hearts: {LEAST_FACTORS} structures at least")
    return pairs


def find_factor(
    model: LoadedModel,
    pairs: Sequence[tuple[LeftOut, UnseenHeart]],
    samples: int = LEAST,
    answered: Callable[[], object] = lambda: None,
    chunk: int = CHUNK,
) -> tuple[float, dict]:
    """(factor, {"hearts": case ids, "samples", "structures": how many were left out, "inside_before": share of truths
    in the `interval_of` the answers}). pairs: of `left_out_of`; answered: is called after each of `samples` answers to
    each of them. InputError where no factor is right."""
    factors, inside, settings = [], [], OutputSettings(meshes=False, complete=True)
    for left_out, heart in pairs:
        decoded = decode_heart(
            model, settings, heart.entry.case_id, heart.case(left_out), None, chunk, lambda line: None
        )
        counts = []
        for labels in answers_of(model, decoded, samples, chunk):
            counts.append(_voxels(labels))
            answered()
        counts, one, true = np.array(counts, float), _voxels(decoded.on_source), _voxels(heart.whole.truth_labels())
        for c in left_out.hidden:
            low, high = interval_of(counts[:, c])
            inside.append(low <= true[c] <= high)
            factors.append(factor_to(float(true[c]), float(one[c]), counts[:, c]))
    factor = factor_for_all(factors)
    if not 0 < factor <= MOST:
        words = f"intervals of volumes would need the factor {factor:.2f}, and {MOST:g} is the most"
        raise InputError.because("--answers_csv", words, "train longer with --answer_noise, or leave --answers_csv out")
    share, used = round(float(np.mean(inside)), 3), [heart.entry.case_id for _, heart in pairs]
    return factor, {"hearts": used, "samples": samples, "structures": len(factors), "inside_before": share}


def _voxels(labels):
    return np.bincount(labels.ravel(), minlength=256)
