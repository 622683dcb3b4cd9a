"""A folder of label maps -> a folder of case files. Files that are done are skipped; one that fails stops no other."""

import errno
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from vecset.common.atomic import remove_leftovers, require_writable
from vecset.common.errors import DISK_FULL, InputError, shown
from vecset.common.file_names import require_sound_name
from vecset.common.workers import map_files
from vecset.data.case_file import meta_of_names, read_case, write_case
from vecset.data.failed_files import Failure, common_causes
from vecset.data.label_folder import ALL, Selection, relative_name
from vecset.data.preparation import Options, border_classes, build_case, warnings_of
from vecset.data.structure_files import Structures, find_sources, read_scan, scan_sha256
from vecset.geometry.surface import crop_foreground
from vecset.imaging.classes import ClassNames, default_class_names
from vecset.imaging.header_geometry import is_settled
from vecset.imaging.header_names import (
    names_apart_from_mapping,
    names_apart_from_numbers,
    names_in_file,
)
from vecset.imaging.image_file import case_id
from vecset.imaging.label_map import drop_islands, file_sha256, read_label_map, some_of
from vecset.imaging.label_mapping import LabelMapping

FAILED_SHOWN = 20
STALE_SHOWN = 10
MEMORY_ADVICE = "use fewer --file_workers or a machine with more memory"
PREFIX = {"failed": "error: ", "excluded": "excluded: "}  # of a line about a file; vecset/cluster/shards.py reads it

Result = tuple[str, list[str]]  # state of a file and the lines to print about it


@dataclass
class CaseMaker:
    """Makes the case file of one label map: called with its path, in any process. With `structures` it is called with
    the folder of a scan that has a file per structure (vecset/data/structure_files.py).

    input_dir: the folder that cases are named by their place in; table: the names of a project, with their aliases and
    colours, in place of the default ones of `classes`; annotated: class ids, None: as the mapping says;
    drop_islands: share of the largest component below which another one is dropped; whole_classes: class ids that the
    field of view must not truncate; overwrite: make done files again.
    disk_full: set once a write found no space; from then on files are only compared, so that done ones are skipped.
    """

    output_dir: Path
    options: Options = field(default_factory=Options)
    classes: int = 10
    mapping: LabelMapping | None = None
    annotated: list[int] | None = None
    spacing_from: str | None = None
    geometry_from: str | None = None
    drop_islands: float = 0.0
    whole_classes: list[int] = field(default_factory=list)
    overwrite: bool = False
    disk_full: bool = False
    structures: Structures | None = None
    input_dir: Path | None = None
    table: ClassNames | None = None

    def case_of(self, path: Path) -> str:
        """The name of the case that a label map becomes."""
        return case_id(relative_name(path, self.input_dir))

    def request(self) -> dict:
        """The options that decide the content of a case file. They are kept in its meta and compared on the next run.
        `whole_classes` is not among them: it decides whether there is a file, and the meta says which classes are cut.
        """
        return {
            **self.options.as_meta(),
            "classes": self.classes,
            "spacing_from": self.spacing_from,
            "label_map": self.mapping.text if self.mapping else None,
            "annotated": self.annotated,
            "drop_crumbs": self.drop_islands,
            **({"geometry_from": self.geometry_from} if self.geometry_from else {}),
            **({"structures": self.structures.text} if self.structures else {}),
            **self._table_meta(),
        }

    def _table_meta(self):
        """What a case file says of the project's table: {} where that is the default one."""
        if self.table is None or (said := meta_of_names(self.table)) == meta_of_names(
            default_class_names(self.classes)
        ):
            return {}
        return said

    def __call__(self, path: Path) -> Result:
        """State: 'made', 'skipped', 'excluded', 'failed', or 'full' where it failed because the disk is full. Nothing
        that is wrong with one file raises."""
        try:
            return self._make(Path(path))
        except Exception as error:  # a defect met on one file must not stop the other 997
            full = isinstance(error, OSError) and error.errno in DISK_FULL
            name = relative_name(path, self.input_dir)
            return "full" if full else "failed", [Failure.of(path, name, error, MEMORY_ADVICE)]

    def _make(self, path):
        require_sound_name(path)
        request = self.request()
        target = self.output_dir / f"{self.case_of(path)}.npz"
        require_sound_name(target)  # names of folders may be in it
        if target.exists() and not self.overwrite:
            try:
                case = read_case(target, ("frame",))
                meta = case.meta
            except InputError:
                meta = {}
            if (
                meta.get("request") == request
                and meta.get("source_sha256") == self._sha256(path)
                and self._names_agree(path, meta)
                and is_settled(
                    meta.get("source_geometry"), case.frame, self.spacing_from, geometry_from=self.geometry_from
                )
            ):
                cut = self._truncated(meta["border_classes"])
                return self._exclude(path, target, cut, meta["class_names"]) if cut else ("skipped", [])
        if self.disk_full:
            raise OSError(errno.ENOSPC, "", f"not tried: {target}")
        if self.structures:
            label_map = read_scan(path, self.structures, self.spacing_from, self.geometry_from)
        else:
            label_map = read_label_map(
                path,
                self.classes,
                self.mapping,
                self.spacing_from,
                geometry_from=self.geometry_from,
                table=self.table,
            )
        label_map.source_name = relative_name(path, self.input_dir)
        label_map = drop_islands(label_map, self.drop_islands)
        if self.whole_classes:
            cut = self._truncated(border_classes(crop_foreground(label_map.labels, label_map.spacing_mm)))
            if cut:
                return self._exclude(path, target, cut, label_map.class_names)
        case = build_case(label_map, self.options, self.annotated)
        case.meta |= {**self._table_meta(), "request": request}
        write_case(target, case)
        lines = [*label_map.notes, *warnings_of(case.meta)]
        if label_map.as_background:
            lines.append(
                f"values {some_of(label_map.as_background)} counted as background "
                f"({sum(label_map.as_background.values())} voxels)"
            )
        return "made", [f"{shown(label_map.source_name)}: {line}" for line in lines]

    def _sha256(self, path):
        return scan_sha256(path, self.structures) if self.structures else file_sha256(path)

    def _names_agree(self, path, meta):
        """Whether a case file of `meta` took the values of its label map for what its header says they are."""
        if self.structures or (self.mapping and not self.mapping.preset):
            return True
        if meta.get("values_by_name"):  # by names that may lie beside the label map, and have changed
            named = names_in_file(path)
            return all(named.get(int(value)) == name for value, (name, _) in meta["values_by_name"].items())
        if not self.mapping:
            return not names_apart_from_numbers(path, self.table or meta["class_names"]).keys() & set(
                meta["present_classes"]
            )
        found, named = self.mapping.value_to_class, names_in_file(path)
        return not names_apart_from_mapping(found, named, found, self.mapping.class_names)

    def _truncated(self, border):
        """Those of the class ids `border` that must be whole."""
        return [c for c in border if c in self.whole_classes]

    def _exclude(self, path, target, cut, class_names):
        """The result of an excluded heart. A case file of an earlier run would be trained on, so it is removed."""
        name = shown(relative_name(path, self.input_dir))
        line = f"{name}: truncated by the field of view: " + ", ".join(class_names[c - 1] for c in cut)
        if target.exists():
            target.unlink(missing_ok=True)
            line += f"; {target.name} of an earlier run is removed"
        return "excluded", [line]


def prepare_folder(
    input_dir: Path,
    make_case: CaseMaker,
    start: int = 0,
    end: int | None = None,
    workers: int = 1,
    selection: Selection = ALL,
) -> int:
    """Makes the case files of the label maps `start` (inclusive) to `end` (exclusive) of `input_dir`, in natural order.
    `selection`: which files these are; its structures are those of `make_case`.

    Prints a line for each file that needs one, a progress bar and a summary. Returns how many files failed. Raises
    InputError where a folder cannot be used."""
    found = find_sources(input_dir, selection)
    make_case.input_dir = Path(input_dir)
    total, names = len(found.paths), {make_case.case_of(path) for path in found.paths}
    paths = found.paths[start:end]
    output_dir = make_case.output_dir
    require_writable(output_dir)
    remove_leftovers(output_dir)
    what = "folders of structures" if make_case.structures else "label maps"
    print(f"{len(paths)} of {total} {what} in {input_dir}", flush=True)
    for line in found.left_out if start == 0 else ():  # of a job array, in its first task alone
        print(f"note: {line}", file=sys.stderr)
    before = _times(output_dir)
    try:
        results = make_all(make_case, paths, workers)
    finally:
        remove_leftovers(output_dir)  # of workers that were killed
    failed = {make_case.case_of(path) for path, (state, _) in results.items() if state == "failed"}
    for line in _stale(failed, before, _times(output_dir), names if start == 0 else None):
        print(f"note: {line}", file=sys.stderr)
    done = [make_case.case_of(path) for path, (state, _) in results.items() if state in ("made", "skipped")]
    line = _one_class_line(done, output_dir)
    if line:
        print(f"WARNING: {line}", file=sys.stderr)
    made_again = sum(results[p][0] == "made" and make_case.case_of(p) in before for p in paths)
    why = "--overwrite" if make_case.overwrite else "options or label map changed, or a broken case file"
    return print_summary(results, output_dir, f"; {made_again} made again: {why}" if made_again else "")


def make_all(make_case: Callable[[Path], Result], paths: list[Path], workers: int) -> dict[Path, Result]:
    """{path: (state, lines)}, the lines printed as they come, and in short where a file failed for the same reason as
    one before. State 'full' becomes 'failed' and sets `disk_full`."""
    from tqdm import tqdm

    told = set()

    def tell(path, result):
        if result[0] == "full":
            make_case.disk_full, result = True, ("failed", result[1])
        for line in result[1]:
            if isinstance(line, Failure):
                known = line.cause in told
                told.add(line.cause)
                line = line.short if known else line
            tqdm.write(PREFIX.get(result[0], "note: ") + line, file=sys.stderr)
        return result

    def killed(path):
        why = InputError.because(path, "its process was killed, most likely for want of memory", MEMORY_ADVICE)
        return "failed", [Failure.of(path, path.name, why, MEMORY_ADVICE)]

    return map_files(make_case, paths, workers, killed, tell, desc="prepare", unit="heart", dynamic_ncols=True)


def print_summary(results: dict[Path, Result], output_dir: Path, more: str = "") -> int:
    """Prints how many files ended in which state, the names of those that failed, and each reason that several of them
    have. Returns the number of those that failed."""
    by_state = {
        state: [p for p, result in results.items() if result[0] == state]
        for state in ("made", "skipped", "excluded", "failed")
    }
    counts = [f"{len(found)} {state}" for state, found in by_state.items() if found or state != "excluded"]
    print(f"{output_dir}: {', '.join(counts)}{more}")
    failed = by_state["failed"]
    if failed:
        names = ", ".join(shown(p.name) for p in failed[:FAILED_SHOWN]) + (
            ", ..." if len(failed) > FAILED_SHOWN else ""
        )
        print(f"not made: {names}", file=sys.stderr)
        for line in common_causes(line for p in failed for line in results[p][1]):
            print(line, file=sys.stderr)
    return len(failed)


def _one_class_line(done, output_dir):
    """The line about the cases `done` where all hold the same class alone although several are annotated, or ""."""
    found = None
    for name in done:
        meta = read_case(output_dir / f"{name}.npz", ()).meta
        if len(meta["present_classes"]) != 1 or len(meta["annotated_classes"]) < 2:
            return ""
        if found not in (None, meta["present_classes"]):
            return ""
        found = meta["present_classes"]
    if not found:
        return ""
    return (
        f"each of these {len(done)} label maps holds one class only, {meta['class_names'][found[0] - 1]}, although "
        f"{len(meta['annotated_classes'])} are annotated. If they are masks of one structure each, merge those of a "
        "scan with --structures; if their values are not class ids, give --label_mapping; if nobody annotated the "
        f"other classes, give --annotated {found[0]}"
    )


def _times(folder):
    """{case name: time of its last change} of the case files in a folder."""
    return {path.name.removesuffix(".npz"): path.stat().st_mtime_ns for path in folder.glob("[!.]*.npz")}


def _stale(failed, before, after, names):
    """Lines about case files that a training would use although no label map of now made them: the `failed` cases, and
    those that are not in `names`, the cases of all label maps (None: not checked, as in all but the first
    shard of a job array)."""
    lines = [
        f"{name}.npz: old case file of a label map that failed"
        for name in before
        if name in failed and after.get(name) == before[name]
    ]
    lines += [
        f"{name}.npz: case file without a label map in --input_dir"
        for name in after
        if names is not None and name not in names
    ]
    more = [f"{len(lines) - STALE_SHOWN} more such case files"] if len(lines) > STALE_SHOWN else []
    return sorted(lines)[:STALE_SHOWN] + more
