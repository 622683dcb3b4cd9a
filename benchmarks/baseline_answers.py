"""The baselines' answers for unseen hearts of a benchmark, which see of a heart what the network may see."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from vecset.metrics.completion_baselines import NAMES, Answer, CompletionBaselines
from vecset.metrics.cut_baselines import CutBaselines
from vecset.metrics.seen_heart import SeenHeart
from vecset.report.completion import LeftOut, UnseenHeart


class BaselineAnswers:
    """Learned from the case files `paths`, when first asked: `tell` is called before they are read."""

    def __init__(self, paths: Sequence[Path], num_classes: int, tell: Callable[[], None] = lambda: None):
        self.paths, self.num_classes, self.tell = list(paths), num_classes, tell
        self._baselines = self._for_cuts = None

    def labels(self, heart: UnseenHeart, left_out: LeftOut) -> dict[str, np.ndarray]:
        """{baseline: (X, Y, Z) labels on the grid that is scored}. The baselines see the heart on its own grid."""
        n = heart.every
        if not left_out.cut:
            answer = self.answer(heart, left_out)
            return {name: answer.labels(name, every=n) for name in NAMES}
        original, (normal, offset) = heart.original, heart.plane(left_out)
        offset_mm = offset / original.frame.scale + float(normal @ original.frame.centre_mm)
        answer = self._cut_baselines(tuple(heart.given(left_out))).answer(
            original.truth_labels(), original.frame.affine, normal, offset_mm
        )
        return {name: answer.labels(name)[::n, ::n, ::n] for name in NAMES}

    def answer(self, heart: UnseenHeart, left_out: LeftOut) -> Answer:
        """The `Answer` where structures are left out, and nothing is cut."""
        original, given = heart.original, heart.given(left_out)
        fitted = self._read().fit(given, left_out.hidden)
        return fitted.answer(
            SeenHeart.of(original.truth_labels(), original.frame.affine, given, left_out.hidden, heart.entry.case_id)
        )

    def _read(self):
        if self._baselines is None:
            self.tell()
            self._baselines = CompletionBaselines(self.paths, self.num_classes)
        return self._baselines

    def _cut_baselines(self, classes):
        """The baselines for cut hearts of these classes; the last ones are kept."""
        baselines = self._read()
        if self._for_cuts is None or self._for_cuts[0] != classes:
            self._for_cuts = classes, CutBaselines(baselines, classes)
        return self._for_cuts[1]
