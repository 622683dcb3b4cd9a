"""Hearts to the folder of their results, each made again only where what it is made from has changed."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

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
MEMORY_ADVICE = "give fewer --mesh_cells or a smaller --chunk, or use a machine with more memory"


@dataclass(frozen=True)
class Outcome:
    """results: {case_id: content of result.json}; failed: {case_id: the reason, in one line}; skipped: how many were
    done before."""

    results: dict = field(default_factory=dict)
    failed: dict = field(default_factory=dict)
    skipped: int = 0

    @property
    def dense(self) -> int:
        """How many hearts were decoded voxel by voxel."""
        return sum(result["decoding"]["dense"] for result in self.results.values())


@dataclass(frozen=True)
class Reconstruction:
    """One run: a model, what it writes and where. baselines: scored beside the model, or None; chunk: points decoded at
    once; overwrite: finished hearts are made again."""

    model: LoadedModel
    settings: OutputSettings
    output_dir: Path
    baselines: Baselines | None = None
    chunk: int = CHUNK
    overwrite: bool = False

    def run(self, hearts: Sequence[ListedCase]) -> Outcome:
        """Makes or finds the result of each heart. One that fails, for whatever reason, is reported in one line; the
        others continue. InputError where the hearts of the baselines cannot be read."""
        if self.baselines and (self.overwrite or not all(map(self._has_baselines, map(self._read_result, hearts)))):
            self.baselines.read()
        results, failed, skipped = {}, {}, 0
        with tqdm(hearts, unit="heart", desc="reconstruct", dynamic_ncols=True) as bar:
            for heart in bar:
                try:
                    result, fresh = self.result_of(heart, tqdm.write)
                except Exception as error:  # a defect met on one heart must not stop the others
                    failed[heart.case_id] = describe_failure(heart.path, error, MEMORY_ADVICE)
                    tqdm.write(f"error: {shown(heart.case_id)}: {failed[heart.case_id]}", file=sys.stderr)
                    continue
                results[heart.case_id] = result
                skipped += not fresh
        return Outcome(results, failed, skipped)

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
        latents = None
        if heart.kind == LATENTS:
            latents, case = self.model.stored_latents(heart.path)
        else:
            how = self.settings
            placed = how.spacing_from, how.spacing_mm, how.geometry_from, how.label_mapping
            case = self.model.read(heart, *placed, how.annotated, how.given, how.slices)
            for note in case.notes:
                say(f"note: {heart.case_id}: {note}")
        if result is None:
            rest = lambda: self._open_folder(heart), self.chunk, say
            content = make_result(self.model, self.settings, heart.case_id, case, latents, *rest)
            result = {
                "case_id": heart.case_id,
                "fingerprint": fingerprint(made),
                "made_from": made,
                "input": heart.path.name,
                **content,
            }
        if self.baselines and result["scores"]:
            scores = self.baselines.scores(case.whole or case, self.model.class_names)
            result["baselines"] = {"fingerprint": self.baselines.fingerprint, **scores}
        write_text(self.folder(heart) / RESULT, json.dumps(result, indent=1, allow_nan=False) + "\n")
        return result

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
        (folder / RESULT).unlink(missing_ok=True)
        return folder

    def _discard(self, heart):
        """Removes what a failure left of a heart: a label map without its figures would look like a result. Only files
        of the names that are written here, and only where there is no finished result."""
        if self.folder(heart).is_dir() and not (self.folder(heart) / RESULT).is_file():
            heart_files.discard(self.folder(heart))
