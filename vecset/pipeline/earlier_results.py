"""How earlier results make place before a stage is done again: removed, or put aside where they took hours. Files that
the main job did not make never go."""

from pathlib import Path

from vecset.common.errors import InputError


def remove_made(files: list[Path], old: dict, base: Path, out: Path) -> None:
    """Removes `files` of the folder `base`, which an earlier run of a stage made, as its stamp `old` lists it relative
    to `out`. Raises InputError where the folder holds other files."""
    made = {str(out / path) for path in old.get("outputs", ())}
    strangers = [p for p in files if str(p) not in made] if old.get("state") != "running" else []
    if strangers:
        raise InputError.because(
            base,
            f"this command did not make {strangers[0].name}, and would remove it",
            "give another --output_dir, or move that file elsewhere",
        )
    for path in files:
        path.unlink()


def remove_outdated_cases(files: list[Path], old: dict, wanted: dict, whole: bool, base: Path) -> None:
    """Removes those of the case files `files` of the folder `base` that have to be made again: all of them (`whole`),
    or those whose label map changed or is gone, by the stamps `old` and `wanted`. Raises InputError where the folder
    holds other case files."""
    from vecset.imaging.image_file import case_id  # here, so that --help needs no package

    made = {Path(path).name for path in old.get("outputs", ())}
    before = old.get("inputs", {})
    known = made | {f"{case_id(name)}.npz" for name in before}
    strangers = [p.name for p in files if p.name not in known]
    if strangers:
        raise InputError.because(
            base,
            f"this command did not make {strangers[0]}, and would train on it",
            "give another --output_dir, or move that file elsewhere",
        )
    keep = {
        f"{case_id(name)}.npz" for name, state in wanted["inputs"].items() if not whole and before.get(name) == state
    }
    for path in files:
        if path.name not in keep:
            path.unlink()


def move_aside(folder) -> Path | None:
    """Renames `folder` to `folder.old-N` (the first free N), because a run that took hours is never deleted. Returns
    the new path, or None where there is no such folder."""
    folder = Path(folder)
    if not folder.exists():
        return None
    number = 1
    while folder.with_name(f"{folder.name}.old-{number}").exists():
        number += 1
    return folder.rename(folder.with_name(f"{folder.name}.old-{number}"))
