"""Hearts to the folder of their results, each made again only where what it is made from has changed."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vecset.common.atomic import remove_leftovers, require_writable, write_text
from vecset.common.errors import describe_failure, shown
from vecset.common.file_names import require_sound_name
from vecset.data.listed_case import LATENTS, ListedCase
from vecset.fields.heart_field import CHUNK
from vecset.inference import heart_files
from vecset.inference.heart_result import make_result
from vecset.inference.inputs import input_sha256, names_that_decide
from vecset.inference.model import LoadedModel
from vecset.inference.settings import OutputSettings, fingerprint, made_from
from vecset.metrics.baselines import Baselines

RESULT = "result.json"
MOST_KEPT = 128 << 20  # bytes of the truths of hearts that were made now
MEMORY_ADVICE = "give fewer --mesh_cells or a smaller --chunk, or use a machine with more memory"


@dataclass(frozen=True)
class Outcome:
    """results: {case_id: content of result.json}; failed: {case_id: the reason, in one line}; skipped: the case_ids of
    those that were done before; truths: {case_id: (label map (X, Y, Z) u8, affine (4, 4) voxel -> mm)} of hearts that
    were made now, of the first of them, up to MOST_KEPT bytes: the report needs not read them again."""

    results: dict = field(default_factory=dict)
    failed: dict = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    truths: dict = field(default_factory=dict)

    @property
    def dense(self) -> int:
        """How many hearts were decoded voxel by voxel."""
        return sum(result["decoding"]["dense"] for result in self.results.values())


@dataclass(frozen=True)
class Reconstruction:
    """One run: a model, what it writes and where. baselines: scored beside the model, or None; chunk: points decoded at
    once; overwrite: finished hearts are made again; before_unmade: is called before the files of a finished heart are
    removed or written over, so that nothing speaks of them when the run ends there."""

    model: LoadedModel
    settings: OutputSettings
    output_dir: Path
    baselines: Baselines | None = None
    chunk: int = CHUNK
    overwrite: bool = False
    before_unmade: Callable[[], object] = lambda: None
    truths: dict = field(default_factory=dict, init=False)

    def run(self, hearts: Sequence[ListedCase]) -> Outcome:
        """Makes or finds the result of each heart. One that fails, for whatever reason, is reported in one line, with
        the reason where no heart before it has the same; the others continue. InputError where the hearts of the
        baselines cannot be read."""
        if self.baselines and (self.overwrite or not all(map(self._has_baselines, map(self._read_result, hearts)))):
            self.baselines.read()
        results, failed, skipped, first_of = {}, {}, [], {}
        with tqdm(hearts, unit="heart", desc="reconstruct", dynamic_ncols=True) as bar:
            for heart in bar:
                try:
                    result, fresh = self.result_of(heart, tqdm.write)
                except Exception as error:  # a defect met on one heart must not stop the others
                    reason = failed[heart.case_id] = describe_failure(heart.path, error, MEMORY_ADVICE)
                    first = first_of.setdefault(_without_file(reason, heart.path), heart.case_id)
                    words = reason if first == heart.case_id else f"for the same reason as {shown(first)}"
                    tqdm.write(f"error: {shown(heart.case_id)}: {words}", file=sys.stderr)
                    continue
                results[heart.case_id] = result
                skipped += [] if fresh else [heart.case_id]
        return Outcome(results, failed, tuple(skipped), self.truths)

    def result_of(self, heart: ListedCase, say: Callable[[str], None]) -> tuple[dict, bool]:
        """(result, whether it was made now): from result.json where that is what this run would make. `say`: as in
        `heart_result.make_result`."""
        require_sound_name(heart.path)
        made = {**made_from(self.model, self.settings), "input_sha256": input_sha256(heart)}
        made |= names_that_decide(heart, self.model.class_names)
        result, folder = self._read_result(heart), self.folder(heart)
        done = (
            not self.overwrite
            and result.get("fingerprint") == fingerprint(made)
            and all((folder / name).is_file() for name in result["files"])
            and heart_files.is_placed(folder)
        )
        if done and (not self.baselines or self._has_baselines(result)):
            return result, False
        try:
            return self._make(heart, made, result if done else None, say), not done
        except BaseException:  # an interrupt, too
            try:
                self._discard(heart)
            except OSError as error:
                say(f"note: {shown(heart.case_id)}: a part of it stays: {describe_failure(self.folder(heart), error)}")
            raise

    def _make(self, heart, made, result, say):
        """The result of a heart, written; `result`: the one that lacks nothing but the baselines, or None."""
        require_writable(self.folder(heart), "output")  # before the long work, not after it
        latents, notes = None, []

        def tell(line):
            text = line.removeprefix(f"note: {heart.case_id}: ")
            if text != line:
                notes.append(text)
            say(line)

        if heart.kind == LATENTS:
            latents, case = self.model.stored_latents(heart.path)
        else:
            how = self.settings
            placed = how.spacing_from, how.spacing_mm, how.geometry_from, how.label_mapping
            case = self.model.read(heart, *placed, how.annotated, how.given, how.slices, bool(how.refine))
            for note in case.notes:
                tell(f"note: {heart.case_id}: {note}")
        if result is None:
            rest = lambda: self._open_folder(heart), self.chunk, tell
            content = make_result(self.model, self.settings, heart.case_id, case, latents, *rest)
            result = {
                "case_id": heart.case_id,
                "fingerprint": fingerprint(made),
                "made_from": made,
                "input": heart.path.name,
                **content,
                "notes": notes,
            }
        self._keep_truth(heart.case_id, case.whole or case)
        if self.baselines and result["scores"]:
            scores = self.baselines.scores(case.whole or case, self.model.class_names)
            result["baselines"] = {"fingerprint": self.baselines.fingerprint, **scores}
        write_text(self.folder(heart) / RESULT, json.dumps(result, indent=1, allow_nan=False) + "\n")
        return result

    def _keep_truth(self, case_id, judged):
        if judged.truth_crop is None:
            return
        size = sum(labels.nbytes for labels, _ in self.truths.values())
        if size + int(np.prod(judged.frame.shape)) <= MOST_KEPT:
            self.truths[case_id] = judged.truth_labels(), judged.frame.affine

    def folder(self, heart: ListedCase) -> Path:
        """Where the files of a heart lie."""
        return self.output_dir / heart.case_id

    def _read_result(self, heart):
        """The content of result.json, {} where there is none that can be read."""
        try:
            result = json.loads((self.folder(heart) / RESULT).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return result if isinstance(result, dict) else {}

    def _has_baselines(self, result):
        stored = result.get("baselines")
        return isinstance(stored, dict) and stored.get("fingerprint") == self.baselines.fingerprint

    def _open_folder(self, heart):
        """The folder of a heart whose files are about to be written: from here on it holds no whole result."""
        folder = self.folder(heart)
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        if (folder / RESULT).is_file():
            self.before_unmade()
        (folder / RESULT).unlink(missing_ok=True)
        return folder

    def _discard(self, heart):
        """Removes what a failure left of a heart: a label map without its figures would look like a result. Only files
        of the names that are written here, and only where there is no finished result."""
        if self.folder(heart).is_dir() and not (self.folder(heart) / RESULT).is_file():
            heart_files.discard(self.folder(heart))


def _without_file(reason, path):
    """The reason why a heart failed, without the name of its own file: equal for hearts that failed alike."""
    return reason.removeprefix(f"{shown(path)}: ").replace(str(path), "the file")
