"""One heart to its result: encoded, decoded, written as files, scored."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vecset.common.errors import InputError
from vecset.common.structure_state import STATE_WORDS, State, is_seen
from vecset.data.case_file import Case
from vecset.fields.answers import Answers, answer_numbers, require_answer_memory
from vecset.fields.claims import count_claims
from vecset.fields.decoding import Decoded, decode_label_map, require_grid_memory
from vecset.fields.heart_field import CHUNK, HeartField
from vecset.fields.meshes import cube_round, require_mesh_memory
from vecset.imaging.class_names import file_names
from vecset.imaging.classes import RESERVED_CLASS
from vecset.imaging.frame import Frame
from vecset.imaging.label_map import write_label_map, write_scalar_map
from vecset.inference.beyond_seen import beyond_line, drawn_beyond
from vecset.inference.heart_files import (
    PROBABILITY,
    REPAIRED,
    SAMPLES,
    SPREAD,
    clear_samples,
    mesh_file,
    shown_names,
    write_labels,
    write_meshes,
)
from vecset.inference.label_repair import changes_line, mend
from vecset.inference.latent_codes import PackedLatents, pack_latents
from vecset.inference.latents import FILE, write_latents
from vecset.inference.model import LoadedModel
from vecset.inference.refinement import refine_latents
from vecset.inference.settings import OutputSettings
from vecset.metrics.overlap import is_union, score
from vecset.metrics.resampling_limit import labels_of_own_field

INSIDE_VOXELS = 0.25  # in which a distance turns from in to out, as a probability
SLICE_MARGIN_MM = 20.0  # round what slices show, where the reconstruction is compared with them


@dataclass(frozen=True)
class Drawing:
    """What is drawn of a heart. states (C,) i8 of `State`; drawn, inferred (C,) bool: inferred ones are unknown, and
    were asked for. What is absent is never drawn, nor what is unknown and was not asked for. told: whether the states
    are known; else all is drawn, as if it was given."""

    states: np.ndarray
    drawn: np.ndarray
    inferred: np.ndarray
    told: bool = True

    @property
    def left_out(self) -> np.ndarray:
        """(C,) bool: unknown, and not asked for."""
        return (self.states == State.UNKNOWN) & ~self.inferred

    @property
    def leaves_freedom(self) -> np.ndarray:
        """(C,) bool: drawn, and not seen whole: answers differ in it."""
        return self.drawn & (self.states != State.GIVEN)

    def words(self, class_names: Sequence[str]) -> dict:
        """What result.json says: states {class name: word}, and the names of inferred classes; both empty where the
        states are not known."""
        words = [STATE_WORDS[State(state)] for state in self.states]
        return {
            "states": dict(zip(class_names, words)) if self.told else {},
            "inferred": [name for name, mine in zip(class_names, self.inferred) if mine],
        }


def drawing_of(case: Case, complete: bool) -> Drawing:
    """What is drawn of a heart: what is seen, what its user has hidden (of `case.whole`, what was annotated), and where
    `complete` all that is unknown. Of latents of an earlier version, which do not say what was seen, everything."""
    if not case.has_states:
        every = np.ones(case.num_classes, bool)
        return Drawing(np.full(case.num_classes, State.GIVEN, np.int8), every, ~every, told=False)
    asked = np.full(case.num_classes, complete)
    if case.whole is not None:
        asked |= case.whole.annotated
    asked &= np.array([name != RESERVED_CLASS for name in case.class_names])
    inferred = (case.states == State.UNKNOWN) & asked
    return Drawing(case.states, is_seen(case.states) | inferred, inferred)


def grid_of(frame: Frame, settings: OutputSettings) -> Frame:
    """The frame of the grid that is written, for the image of `frame`."""
    frame = frame.extended(settings.extend_mm) if settings.extend_mm else frame
    return frame.with_spacing(settings.spacing_mm) if settings.spacing_mm else frame


@dataclass(frozen=True)
class DecodedHeart:
    """latents: (1, M, L), what was decoded; packed: the same in fewer bits, where they are saved so; output: the label
    map on the grid that is written, that of `frame`; on_source: labels on the truth's grid, None where there is no
    truth; refined: what --refine did, None or empty without."""

    case_id: str
    case: Case
    drawing: Drawing
    frame: Frame
    latents: torch.Tensor
    field: HeartField
    output: Decoded
    on_source: np.ndarray | None
    packed: PackedLatents | None = None
    refined: dict | None = None


def make_result(
    model: LoadedModel,
    settings: OutputSettings,
    case_id: str,
    case: Case,
    latents: torch.Tensor | None,
    open_folder: Callable[[], Path],
    chunk: int,
    say: Callable[[str], None],
) -> dict:
    """Encodes a heart (where there are no `latents` (1, M, L) yet), decodes, writes and scores it.

    open_folder: gives the folder to write into; called once the heart is decoded. say: takes a line of text where
    coarse to fine was not safe. Returns files (names), scores and floor (rows of vecset/metrics/overlap.py, none
    without a truth; floor: the resampling limit), decoding (counts and seconds; claims: `count_claims` on the grid that
    is written, of networks with class distances), and latents_file where they are saved: latents, numbers of each,
    bits_per_number (with all that is needed to have them back) and bytes of the file; what `Drawing.words` says;
    repair {structure: `label_repair.Mending`} where the label map is mended; and of a heart that is seen in slices,
    slices: `slices_agreement`.
    Rows of scores have `observed`: given or inferred, None for a class that is neither, and for the union."""
    start, judged = time.time(), case.whole or case
    with ThreadPoolExecutor(1) as beside:  # the limit needs no model: it is found while the heart is decoded
        limit = None
        if judged.truth_crop is not None:
            limit = beside.submit(lambda: score_against(judged, judged.truth_crop, labels_of_own_field(judged)))
        heart = decode_heart(model, settings, case_id, case, latents, chunk, say)
        scored = None
        if heart.on_source is not None:  # while meshes are made
            scored = beside.submit(lambda: score_against(judged, judged.truth_labels(), heart.on_source))
        folder = open_folder()
        files, volumes = write_heart(folder, model, settings, heart, chunk, say)
        (folder / REPAIRED).unlink(missing_ok=True)  # of an earlier run
        repair = repaired(folder, heart, say) if settings.repair else {}
        files += [REPAIRED] if repair else []
        if settings.samples and not volumes:
            say(f"note: {case_id}: all that is drawn of it is seen whole: no samples")
        if heart.field.fallbacks > heart.output.dense:
            say(
                f"{case_id}: the grid of its meshes or figures was decoded point by point, too: coarse to fine "
                "was not safe, or no gain"
            )
        scores = []
        if scored is not None:
            scores = scored.result()
            _tell_observed(scores, heart.drawing)
        decoded = heart.output
        claims = count_claims(heart.field, heart.frame, decoded.labels, seed=model.seed)
        return {
            "files": files,
            "scores": scores,
            "floor": limit.result() if limit else [],
            "decoding": {
                "queries": decoded.queries,
                "voxels": decoded.voxels,
                "skipped": decoded.skipped,
                "interpolated": decoded.interpolated,
                "checked": decoded.checked,
                "missed": decoded.missed,
                "dense": decoded.dense,
                "fallbacks": heart.field.fallbacks,
                **({"claims": claims} if claims else {}),
                "seconds": round(time.time() - start, 2),
            },
            **heart.drawing.words(model.class_names),
            "inferred_nowhere": _not_found(heart, model.class_names),
            **({"samples": _told_of_samples(settings, heart, volumes)} if volumes else {}),
            **({"repair": repair} if repair else {}),
            **({"refinement": heart.refined} if heart.refined else {}),
            **({"slices": slices_agreement(heart)} if case.in_slices else {}),
            **({"latents_file": _told_of_latents(heart, folder / FILE)} if settings.latents else {}),
        }


def repaired(folder: Path, heart: DecodedHeart, say: Callable[[str], None]) -> dict:
    """Writes the label map that was given, mended, and returns {structure: what was changed}. InputError where the
    heart has no label map."""
    case = heart.case
    if case.truth_crop is None:
        raise InputError.because(case.path, "it holds no label map that could be mended", "leave out --repair")
    mended, told = mended_map(heart)
    nowhere = heart.drawing.left_out | heart.drawing.inferred  # no voxel of the map is of these
    names = shown_names(case.class_names, nowhere, np.zeros(len(nowhere), bool))
    write_label_map(folder / REPAIRED, mended, case.frame.affine, names, case.meta.get("source_geometry"))
    if line := changes_line(told):
        say(f"{heart.case_id}: repaired: {line}")
    return told


def mended_map(heart: DecodedHeart) -> tuple[np.ndarray, dict[str, dict]]:
    """What `label_repair.mend` makes of the label map of a heart that has one, on its own grid."""
    case = heart.case
    voxel_unit = float(case.frame.spacing_mm.max() * case.frame.scale)

    def probabilities(index):
        sdf_Q, logits_QC = map(torch.from_numpy, heart.field.values(case.frame.voxel_to_unit(index).astype(np.float32)))
        inside_Q = torch.sigmoid(-sdf_Q / (INSIDE_VOXELS * voxel_unit))
        return (logits_QC.softmax(1) * inside_Q.unsqueeze(1)).numpy()

    return mend(case.truth_labels(), heart.on_source, probabilities, case.frame.spacing_mm, case.class_names)


def _not_found(heart, class_names):
    """Names of the classes that were inferred and of which nothing was drawn."""
    if not heart.drawing.inferred.any():
        return []
    drawn = np.bincount(heart.output.labels.ravel(), minlength=len(class_names) + 1)[1:] > 0
    return [name for name, empty in zip(class_names, heart.drawing.inferred & ~drawn) if empty]


def _tell_observed(rows, drawing):
    """Gives each row of scores its `observed`."""
    seen = is_seen(drawing.states)
    for row in rows:
        row["observed"] = None
        if not is_union(row):
            c = row["class_id"] - 1
            row["observed"] = "given" if seen[c] else "inferred" if drawing.inferred[c] else None


def slices_agreement(heart: DecodedHeart) -> dict:
    """How well a heart that is seen in slices agrees with what these show: planes, their number (None for points and
    latents, which do not hold them); pixels, those of the slices within SLICE_MARGIN_MM of the box of all that is
    labelled, at whose centres the field is decoded; dice: {class name: Dice of these pixels, all slices together} of
    the structures that they show. It says nothing of the heart between the slices, which nobody knows."""
    case = heart.case
    told = {"planes": case.meta["slices"]["planes"], "pixels": 0, "dice": {}}
    if not case.planes:
        return told
    places = [plane.pixel_centres_mm() for plane in case.planes]
    labels = [plane.labels.ravel() for plane in case.planes]
    shown_mm = np.concatenate([at[mine > 0] for at, mine in zip(places, labels)])
    low, high = shown_mm.min(0) - SLICE_MARGIN_MM, shown_mm.max(0) + SLICE_MARGIN_MM
    near = [((at >= low) & (at <= high)).all(1) for at in places]
    places_unit = case.frame.mm_to_unit(np.concatenate([at[mine] for at, mine in zip(places, near)]))
    truth = np.concatenate([mine[kept] for mine, kept in zip(labels, near)])
    radius_unit, found = heart.field.radius_unit, np.zeros(len(truth), np.uint8)
    size = np.linalg.norm(places_unit, axis=1) / radius_unit if radius_unit else np.abs(places_unit).max(1)
    decoded = np.flatnonzero(size <= 1)  # elsewhere is background, as in the label map
    found[decoded] = heart.field.at_positions(decoded, lambda flat: places_unit[flat])[1]
    for c in np.unique(truth[truth > 0]):
        both = np.count_nonzero((truth == c) & (found == c))
        total = np.count_nonzero(truth == c) + np.count_nonzero(found == c)
        told["dice"][case.class_names[c - 1]] = 2 * both / total
    return {**told, "pixels": len(truth)}


def _told_of_samples(settings, heart, volumes):
    """number; volumes {class name: ml of the one answer (volume_ml), `Answers.volumes`, and true_ml, None where it is
    not known; mesh: the file whose vertices have the spread, where there is one}."""
    judged, told = heart.case.whole or heart.case, {}
    frame_ml, true_ml = (float(np.prod(frame.spacing_mm)) / 1000 for frame in (heart.frame, judged.frame))
    one = np.bincount(heart.output.labels.ravel(), minlength=256)
    true = None if judged.truth_crop is None else np.bincount(judged.truth_crop.ravel(), minlength=256)
    for c, found in volumes.items():
        known = true is not None and bool(judged.annotated[c - 1])
        told[judged.class_names[c - 1]] = {
            "volume_ml": float(one[c] * frame_ml),
            **found,
            "true_ml": float(true[c] * true_ml) if known else None,
        }
    return {"number": settings.samples, "volumes": told}


def _told_of_latents(heart, path):
    _, count, numbers = heart.latents.shape
    return {
        "latents": count,
        "numbers": numbers,
        "bits_per_number": round(heart.packed.bits_per_number, 2) if heart.packed else 32,
        "bytes": path.stat().st_size,
    }


def decode_heart(
    model: LoadedModel,
    settings: OutputSettings,
    case_id: str,
    case: Case,
    latents: torch.Tensor | None,
    chunk: int,
    say: Callable[[str], None],
) -> DecodedHeart:
    """Encodes where needed, and decodes the label maps on the grids that are written and scored; as `make_result`.
    InputError where those grids, or that of the meshes, are too large for the memory that is free."""
    drawing, frame = drawing_of(case, settings.complete), grid_of(case.frame, settings)
    if not drawing.told:
        say(f"note: {case_id}: these latents do not say what was seen of the heart: every structure is drawn")
    note = _taken_as_absent(case, settings, drawing)
    if note:
        say(f"note: {case_id}: {note}")
    # the frame is that of what is seen: the rest may lie beyond its cube
    beyond = drawing.inferred.any() or settings.extend_mm or case.in_slices
    radius_unit = model.inferred_radius_unit if beyond else None
    require_grid_memory(frame, radius_unit)
    if settings.meshes:
        require_mesh_memory(settings.mesh_cells)
    latents, refined = model.encode(case, case_id) if latents is None else latents, {}
    if settings.refine:
        latents, refined = refine_latents(model, case, case_id, latents, settings.refine)
        if not refined["kept"]:
            say(f"note: {case_id}: --refine has not improved the latents, which stay as they were encoded")
    if settings.samples:
        require_answer_memory(frame, int(drawing.leaves_freedom.sum()))
    packed = None
    if settings.latents and settings.latent_bits < 32:  # the figures of this run are to be those of the file
        packed = pack_latents(
            latents[0].float().cpu().numpy(), settings.latent_bits, model.latents_have_places, model.stored_rows
        )
        latents = torch.from_numpy(packed.latents_ML)[None].to(latents.device)
    fitted = bool(refined.get("kept"))
    field = model.field(latents, chunk, drawing.drawn, radius_unit, inferred_C=drawing.inferred, refined=fitted)
    output, on_source = decode_label_map(field, frame, seed=model.seed), None
    if output.dense:
        why = (
            f"{output.missed} of {output.checked} voxels checked differ from the coarse-to-fine label map"
            if output.missed
            else f"coarse to fine leaves only {output.skipped} of {output.voxels} voxels alone"
        )
        say(f"{case_id}: {why}; decoded voxel by voxel instead")
    if radius_unit and _reaches(output.labels, frame, radius_unit):
        say(
            f"note: {case_id}: what is drawn ends {radius_unit / frame.scale:.0f} mm from the middle of what is seen, "
            "as far as the model was trained to infer; more of the heart may lie beyond: give it more structures"
        )
    if case.truth_crop is not None:  # what was seen is known, place by place
        seen = [int(c) + 1 for c in np.flatnonzero(is_seen(drawing.states))]
        line = beyond_line(drawn_beyond(output.labels, frame, case.truth_labels(), case.frame, seen), case.class_names)
        if line:
            say(f"note: {case_id}: {line}")
    if (case.whole or case).truth_crop is not None:
        if settings.spacing_mm:
            on_source = decode_label_map(field, case.frame, seed=model.seed).labels
        else:
            more = (np.array(frame.shape) - case.frame.shape) // 2
            on_source = output.labels[tuple(slice(n, n + length) for n, length in zip(more, case.frame.shape))]
    return DecodedHeart(case_id, case, drawing, frame, latents, field, output, on_source, packed, refined)


def _taken_as_absent(case, settings, drawing):
    """What to say of classes without a voxel where something is to be inferred, or "": nobody may have looked for
    them."""
    judged = case.whole or case
    if judged.truth_crop is None or not (settings.complete or settings.given):
        return ""
    there = np.bincount(judged.truth_crop.ravel(), minlength=len(judged.annotated) + 1)[1:] > 0
    lacking = zip(judged.class_names, judged.annotated & ~there)
    names = [name for name, mine in lacking if mine and name != RESERVED_CLASS]
    if not names:
        return "" if drawing.inferred.any() else "nothing of it is unknown, so nothing is inferred"
    drawn = "and what is drawn of them is spurious" if settings.given else "so they are not inferred"
    return f"{', '.join(names)}: no voxel in the map, taken as absent, {drawn}; --annotated says what was looked for"


def _reaches(labels, frame, radius_unit):
    """Whether a drawn voxel has no neighbour farther out within the ball."""
    places_unit = frame.voxel_to_unit(np.argwhere(labels))
    last_unit = radius_unit - frame.spacing_mm.max() * frame.scale
    return bool((np.square(places_unit).sum(1) > last_unit**2).any())


def write_heart(
    folder: Path,
    model: LoadedModel,
    settings: OutputSettings,
    heart: DecodedHeart,
    chunk: int,
    say: Callable[[str], None],
) -> tuple[list[str], dict]:
    """Writes label map, latents and samples where `settings` says so, and meshes into `folder`; returns the files'
    names, and of samples the volumes {class id: `Answers.volumes`, and mesh, the file with the spread}, else {}."""
    labels, on_own_grid = heart.output.labels, bool(settings.spacing_mm or settings.extend_mm)
    geometry = None if on_own_grid else heart.case.meta.get("source_geometry")
    names = shown_names(model.class_names, heart.drawing.left_out, heart.drawing.inferred)
    inferred = inferred_voxels(heart, bool(settings.extend_mm))
    files = write_labels(folder, labels, heart.frame, names, geometry, inferred)
    if settings.latents:
        latents = heart.packed or heart.latents[0].float().cpu().numpy()
        write_latents(folder / FILE, latents, heart.case, heart.case_id, model.class_names, model.checkpoint_sha256)
        files.append(FILE)
    image = heart.case.frame.extended(settings.extend_mm) if settings.extend_mm else heart.case.frame
    cube_mm = cube_round(labels, heart.frame) if heart.field.radius_unit else None
    sampled, volumes = [], {}

    def add_answers(meshes):
        found = _write_answers(folder, model, settings, heart, names, geometry, chunk, say, meshes)
        sampled.extend(found[0])
        volumes.update(found[1])

    clear_samples(folder)
    wanted = settings.samples and heart.drawing.leaves_freedom.any()
    hook = {"before_writing": add_answers} if wanted else {}
    files += write_meshes(folder, heart.field, image, names, settings, cube_mm, **hook)
    return files + sampled, volumes


def answers_of(model: LoadedModel, heart: DecodedHeart, samples: int, chunk: int = CHUNK) -> Iterator[np.ndarray]:
    """The label maps (X, Y, Z) u8, on the grid of `heart.frame`, of so many answers to what is not seen of a heart."""
    for number in range(1, samples + 1):
        noise_K = answer_numbers(model.answer_numbers, number, heart.case_id, model.seed)
        drawing = heart.drawing
        field = model.field(heart.latents, chunk, drawing.drawn, heart.field.radius_unit, noise_K, drawing.inferred)
        yield decode_label_map(field, heart.frame, seed=model.seed).labels


def _write_answers(folder, model, settings, heart, names, geometry, chunk, say, meshes):
    """Decodes the answers to a heart, one after the other; writes their label maps and the probability maps, and adds
    to each mesh of a structure that is not seen whole the spread of its vertices (`Answers.spread_mm`). -> names of the
    files, and the volumes by class id."""
    classes = [int(c) + 1 for c in np.flatnonzero(heart.drawing.leaves_freedom)]
    vertices = {c: np.asarray(mesh.vertices) for c, mesh in meshes.items() if c in classes}
    answers, files = Answers(heart.frame, classes, vertices), []
    (folder / SAMPLES).mkdir()
    (folder / PROBABILITY).mkdir()
    for number, labels in enumerate(answers_of(model, heart, settings.samples, chunk), 1):
        answers.add(labels)
        files.append(f"{SAMPLES}/{number:03d}.nii.gz")
        write_label_map(folder / files[-1], labels, heart.frame.affine, names, geometry)
        if number % 10 == 0:
            say(f"{heart.case_id}: {number} of {settings.samples} samples")
    for c, shares in answers.probabilities():
        files.append(f"{PROBABILITY}/{file_names(model.class_names)[c - 1]}.nii.gz")
        write_scalar_map(folder / files[-1], shares, heart.frame.affine, geometry)
    one = np.bincount(heart.output.labels.ravel(), minlength=256) * float(np.prod(heart.frame.spacing_mm)) / 1000
    volumes = answers.volumes(one[classes], model.answer_interval)
    for c in vertices:
        spread = answers.spread_mm(c)
        if spread is not None:
            meshes[c].vertex_attributes[SPREAD] = spread
            if settings.mesh_format == "ply":  # the others have no numbers at vertices
                volumes[c]["mesh"] = mesh_file(names, c, settings)
    return files, volumes


def inferred_voxels(heart: DecodedHeart, extended: bool) -> np.ndarray:
    """(X, Y, Z) bool on the grid that is written: the voxels of inferred classes, and where it was `extended` of all
    classes beyond the image. (Another spacing may put the centres of a last layer a little beyond it.)"""
    labels, frame, image = heart.output.labels, heart.frame, heart.case.frame
    inferred = np.concatenate([[False], heart.drawing.inferred])[labels]
    if not extended:
        return inferred
    first = image.mm_to_voxel(frame.affine[:3, 3])  # where the first voxel lies; the axes are the same
    ratio = frame.spacing_mm / image.spacing_mm
    for axis in range(3):
        at = first[axis] + ratio[axis] * np.arange(labels.shape[axis])
        beyond = (at < -0.5 - 1e-6) | (at > image.shape[axis] - 0.5 + 1e-6)
        beside = tuple(beyond if a == axis else slice(None) for a in range(3))
        inferred[beside] = labels[beside] > 0
    return inferred


def score_against(case: Case, truth: np.ndarray, prediction: np.ndarray) -> list[dict]:
    """Rows of `vecset.metrics.overlap.score` in mm, with the classes and the spacing of `case`."""
    return score(truth, prediction, case.class_names, case.annotated, case.frame.spacing_mm)
