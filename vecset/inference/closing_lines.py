"""What reconstruct.py says at its end of the hearts, from their results (result.json)."""

from collections import Counter

from vecset.common.errors import shown
from vecset.common.structure_state import STATE_WORDS, State
from vecset.imaging.classes import RESERVED_CLASS

FAILED_SHOWN = 20
NOTES_SHOWN = 20


def unknown_lines(results):
    """What the last lines say about structures that are unknown: what was left out, and what was inferred."""
    left, inferred, nowhere = Counter(), Counter(), Counter()
    hearts = {"left": 0, "inferred": 0}
    for result in results:
        inferred.update(mine := result.get("inferred", ()))
        nowhere.update(result.get("inferred_nowhere", ()))
        unknown = [name for name, word in result.get("states", {}).items() if word == STATE_WORDS[State.UNKNOWN]]
        unknown = [name for name in unknown if name != RESERVED_CLASS]
        left.update(gone := [name for name in unknown if name not in mine])
        hearts["left"] += bool(gone)
        hearts["inferred"] += bool(mine)
    told = {
        key: ", ".join(f"{name} in {n}" for name, n in counts.items())
        for key, counts in (("left", left), ("inferred", inferred), ("nowhere", nowhere))
    }
    lines = []
    if left:
        lines.append(
            f"{hearts['left']} of {len(results)} hearts have structures that are unknown and are not drawn "
            f"({told['left']}); --complete infers them"
        )
    if inferred:
        empty = f"; of these nothing was drawn: {told['nowhere']}" if nowhere else ""
        lines.append(
            f"{hearts['inferred']} of {len(results)} hearts have inferred structures ({told['inferred']}){empty}"
        )
    return lines


def slices_lines(results):
    """What the last lines say about hearts that were seen in slices: how well they agree with these."""
    each = [list(result["slices"]["dice"].values()) for result in results if result.get("slices", {}).get("dice")]
    if not each:
        return []
    mean = sum(sum(dice) / len(dice) for dice in each) / len(each)
    return [
        f"{len(each)} of {len(results)} hearts were compared with their slices: mean Dice in the slices {mean:.3f} "
        "(it says nothing of the heart between them)"
    ]


def repair_lines(results):
    """What the last lines say about label maps that were mended, of the hearts that --repair is of: in how many there
    was nothing to mend, and where mending left a structure in more pieces than it was in."""
    told = [result["repair"] for result in results if "repair" in result]
    if not told:
        return []
    changed = sum(any(one["gained"] or one["lost"] for one in mine.values()) for mine in told)
    same = len(told) - changed
    as_it_was = f"; in {same} there was nothing to mend, and repaired.nii.gz is as it was given" if same else ""
    lines = [f"--repair: {changed} of {len(told)} label maps were mended{as_it_was}"]
    more = Counter(name for mine in told for name, one in mine.items() if one["pieces"] > one["pieces_before"])
    if more:
        names = ", ".join(f"{name} in {n}" for name, n in more.items())
        lines.append(f"note: mending left more pieces of a structure than before ({names}); look at repaired.nii.gz")
    return lines


def latents_lines(results, bits):
    """What the last lines say about the latents of the hearts that are done."""
    files = [result["latents_file"] for result in results if "latents_file" in result]
    if not files:  # an earlier version made them
        return []
    kilobytes = sum(file["bytes"] for file in files) / len(files) / 1000
    numbers = max(file["latents"] * file["numbers"] for file in files)
    told = f"latents: {numbers} numbers in {max(file['bits_per_number'] for file in files):.1f} bits each, "
    told += f"{kilobytes:.1f} kB per heart (latents.npz)"
    return [told + ("; label maps and figures are decoded from what these files hold" if bits < 32 else "")]


def earlier_notes(results):
    """The notes about hearts that were done before, once more, as far as there are not too many; and how many hearts an
    earlier version made, which kept no notes."""
    notes = [f"note: {shown(result['case_id'])} (done before): {text}" for result in results for text in _notes(result)]
    lines = notes[:NOTES_SHOWN]
    if notes[NOTES_SHOWN:]:
        lines.append(f'and {len(notes) - NOTES_SHOWN} more notes about them: "notes" in result.json of each heart')
    unknown = sum("notes" not in result for result in results)
    if unknown:
        lines.append(f"an earlier version made {unknown} of them, and kept no notes about them; --overwrite tells them")
    return lines


def _notes(result):
    return result.get("notes", [])


def failed_line(failed, hearts):
    """The last line about the hearts that failed ({case_id: reason}): which they are. Each was told its reason."""
    names = ", ".join(map(shown, list(failed)[:FAILED_SHOWN]))
    more = f" and {len(failed) - FAILED_SHOWN} more" if len(failed) > FAILED_SHOWN else ""
    return f"{len(failed)} of {len(hearts)} hearts failed (reasons above): {names}{more}"
