"""The classes of a label map: ids, names and colours. Structures have the ids 1..C."""

BACKGROUND = 0  # the label of everything that is no structure, in every label map, case file and output
BACKGROUND_COLOUR = "#F7F7F7"

# Label order of ImageCAS-STACOM2025. Paul Tol's "muted" qualitative scheme (https://personal.sron.nl/~pault/), safe for
# colour-blind readers, ordered so that neighbouring structures differ in lightness as well; the tenth is his "bright"
# blue. tests/report/test_hearts.py holds how far two colours must differ.
HEART_COLOURS = {
    "Myocardium": "#CC6677",
    "LA": "#88CCEE",
    "LV": "#882255",
    "RA": "#DDCC77",
    "RV": "#332288",
    "Aorta": "#117733",
    "PA": "#44AA99",
    "LAA": "#AA4499",
    "Coronary": "#999933",
    "PV": "#4477AA",
}
HEART_CLASSES = tuple(HEART_COLOURS)
# of classes beyond the ten
_MORE = ("#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#BBBBBB", "#EE8866", "#77AADD", "#FFAABB", "#AAAA00")


def default_class_names(num_classes: int) -> list[str]:
    """Names of the classes 1..C: the first C of HEART_CLASSES (label order of ImageCAS-STACOM2025) where C is at most
    10, else `class_1` .. `class_C`."""
    if num_classes <= len(HEART_CLASSES):
        return list(HEART_CLASSES[:num_classes])
    return [f"class_{c}" for c in range(1, num_classes + 1)]


def rgb(colour: str) -> tuple[int, int, int]:
    """'#RRGGBB' -> (red, green, blue), each 0..255."""
    red, green, blue = bytes.fromhex(colour[1:])
    return red, green, blue


def class_colours(num_classes: int) -> list[str]:
    """C colours as '#RRGGBB'; after 20 they repeat, darker."""
    base = (*HEART_COLOURS.values(), *_MORE)
    colours = []
    for c in range(num_classes):
        red, green, blue = rgb(base[c % len(base)])
        shade = 0.7 ** (c // len(base))
        colours.append(f"#{int(red * shade):02X}{int(green * shade):02X}{int(blue * shade):02X}")
    return colours
