"""Hearts to the folder of their results, each made again only where what it is made from has changed."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from vecset.common.atomic import remove_leftovers, write_text
from vecset.common.errors import InputError, describe_os_error
from vecset.data.listed_case import LATENTS, ListedCase
from vecset.inference import heart_files
from vecset.inference.heart_field import CHUNK
from vecset.inference.heart_result import make_result
from vecset.inference.inputs import input_sha256, names_that_decide
from vecset.inference.model import LoadedModel
from vecset.inference.settings import OutputSettings, fingerprint, made_from
from vecset.metrics.baselines import Baselines

RESULT = "result.json"


@dataclass(frozen=True)
class Outcome:
    """results: {case_id: content of result.json}; failed: case ids; skipped: how many were done before."""

    results: dict = field(default_factory=dict)
    failed: list = field(default_factory=list)
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
        """Makes or finds the result of each heart. One that fails is reported in one line; the others continue."""
        if self.baselines and (self.overwrite or not all(map(self._has_baselines, map(self._read_result, hearts)))):
            self.baselines.read()
        results, failed, skipped = {}, [], 0
        with tqdm(hearts, unit="heart", desc="reconstruct", dynamic_ncols=True) as bar:
            for heart in bar:
                try:
                    result, fresh = self.result_of(heart, tqdm.write)
                except (InputError, OSError) as error:
                    line = str(error) if isinstance(error, InputError) else describe_os_error(error)
                    tqdm.write(f"failed: {heart.case_id}: {line}", file=sys.stderr)
                    failed.append(heart.case_id)
                    continue
                results[heart.case_id] = result
                skipped += not fresh
        return Outcome(results, failed, skipped)

    def result_of(self, heart: ListedCase, say: Callable[[str], None]) -> tuple[dict, bool]:
        """(result, whether it was made now): from result.json where that is what this run would make. `say`: as in
        `heart_result.make_result`."""
        made = {**made_from(self.model, self.settings), "input_sha256": input_sha256(heart)}
        made |= names_that_decide(heart, self.model.class_names)
        result, folder = self._read_result(heart), self.folder(heart)
        done = (
            not self.overwrite
            and result.get("fingerprint") == fingerprint(made)
            and all((folder / name).is_file() for name in result["files"])
        )
        if done and (not self.baselines or self._has_baselines(result)):
            return result, False
        latents = None
        if heart.kind == LATENTS:
            latents, case = self.model.stored_latents(heart.path)
        else:
            how = self.settings
            case = self.model.read(heart, how.spacing_from, how.spacing_mm, how.geometry_from, how.label_mapping)
            for note in case.notes:
                say(f"note: {heart.case_id}: {note}")
        if not done:
            try:
                rest = lambda: self._open_folder(heart), self.chunk, say
                content = make_result(self.model, self.settings, heart.case_id, case, latents, *rest)
            except OSError:
                self._discard(heart)
                raise
            result = {
                "case_id": heart.case_id,
                "fingerprint": fingerprint(made),
                "made_from": made,
                "input": heart.path.name,
                **content,
            }
        if self.baselines and result["scores"]:
            scores = self.baselines.scores(case, self.model.class_names)
            result["baselines"] = {"fingerprint": self.baselines.fingerprint, **scores}
        write_text(folder / RESULT, json.dumps(result, indent=1, allow_nan=False) + "\n")
        return result, not done

    def folder(self, heart: ListedCase) -> Path:
        """Where the files of a heart lie."""
        return self.output_dir / heart.case_id

    def _read_result(self, heart):
        """The content of result.json, {} where there is none that can be read."""
        try:
            return json.loads((self.folder(heart) / RESULT).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def _has_baselines(self, result):
        return result.get("baselines", {}).get("fingerprint") == self.baselines.fingerprint

    def _open_folder(self, heart):
        """The folder of a heart whose files are about to be written: from here on it holds no whole result."""
        folder = self.folder(heart)
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        (folder / RESULT).unlink(missing_ok=True)
        return folder

    def _discard(self, heart):
        """Removes what a full disk left of a heart: a label map without its figures would look like a result. Only
        files of the names that are written here, and only where there is no finished result."""
        if not (self.folder(heart) / RESULT).is_file():
            heart_files.discard(self.folder(heart))
