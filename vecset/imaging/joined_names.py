"""The structures of several tables as one: by name, with the aliases of vecset/imaging/structures and of the tables."""

from collections.abc import Mapping, Sequence

from vecset.common.errors import InputError
from vecset.imaging.classes import HEART16_CLASSES, ClassNames
from vecset.imaging.structure_names import alias_key, class_of, is_automatic, name_key


def union_of(tables: Mapping[str, tuple[Sequence[str], set]]) -> tuple[ClassNames, list[str]]:
    """(the structures of all data sets, lines about how they were joined). tables: {data set: (its class names (C,),
    ids of the classes that somebody looked for)}.

    Structures are one where they have a name or an alias in common, or stand for one structure of a heart. The order is
    that of the sixteen (vecset/imaging/structures), then that of the data sets. InputError where a data set has a class
    without a name, or two classes that are one structure."""
    found = []  # of the union: [name, {key of a text: text}, {data set: (id, own name)}, colour]
    for dataset, (names, annotated) in tables.items():
        for c in sorted(annotated):
            name = names[c - 1]
            if is_automatic(name):
                raise InputError.because(
                    f"data set {dataset}",
                    f"its class {c} has no name but {name!r}, so that nobody knows which structure it is",
                    "prepare it again with the table of its structures (prepare_data.py --classes FILE), or with "
                    "names in --label_mapping",
                )
            texts = {name, *getattr(names, "aliases", {}).get(name, ())}
            keys = {alias_key(text): text for text in texts} | {class_of(t): t for t in texts if class_of(t)}
            same = [row for row in found if row[1].keys() & keys.keys()]
            if len(same) > 1:
                raise InputError.because(
                    f"data set {dataset}",
                    f"{name} fits {' and '.join(row[0] for row in same)} of the other data sets",
                    "correct the aliases in its table of structures",
                )
            row = same[0] if same else [name, {}, {}, None]
            if not same:
                found.append(row)
            if dataset in row[2]:
                raise InputError.because(
                    f"data set {dataset}",
                    f"its classes {row[2][dataset][0]} {row[2][dataset][1]} and {c} {name} are one structure, {row[0]}",
                    "make them one class with --label_mapping, or correct the aliases in its table of structures",
                )
            row[1] |= keys
            row[2][dataset] = (c, name)
            row[0] = next((s for s in HEART16_CLASSES if s in row[1]), row[0])
            row[3] = row[3] or getattr(names, "colours", {}).get(name)
    order = {name: n for n, name in enumerate(HEART16_CLASSES)}
    found.sort(key=lambda row: order.get(row[0], len(order)))
    aliases = {
        row[0]: sorted({t for t in row[1].values() if name_key(t) != name_key(row[0])}, key=str.casefold)
        for row in found
    }
    union = ClassNames(
        [row[0] for row in found],
        {name: texts for name, texts in aliases.items() if texts},
        {row[0]: row[3] for row in found if row[3]},
    )
    return union, _joined_lines(found)


def _joined_lines(found):
    lines = []
    for name, _, members, _ in found:
        if len({name_key(own) for _, own in members.values()} | {name_key(name)}) > 1:
            told = ", ".join(f"{own!r} in {dataset}" for dataset, (_, own) in members.items())
            lines.append(f"one structure, {name}: {told}")
    by_id = {}
    for name, _, members, _ in found:
        for dataset, (c, _) in members.items():
            by_id.setdefault(c, {}).setdefault(name, []).append(dataset)
    clashing = {c: names for c, names in sorted(by_id.items()) if len(names) > 1}
    if clashing:
        told = "; ".join(
            f"{c} is " + ", ".join(f"{name} in {' and '.join(sets)}" for name, sets in names.items())
            for c, names in list(clashing.items())[:3]
        )
        more = f"; and {len(clashing) - 3} more" if len(clashing) > 3 else ""
        lines.append(f"the same number is another structure ({told}{more}); names decide")
    return lines
