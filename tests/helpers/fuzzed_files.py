"""Files of every kind that users give, made sound and then spoiled by a few random changes. The same rng, the same
file."""

import gzip
import io
import json
import zipfile
import zlib

import nibabel as nib
import numpy as np
from scipy.spatial.transform import Rotation

NAMES = ["LV", "RV", "Aorta"]
ODD_NUMBERS = (0, -1, 1, 2, 3, 7, 100, 255, 256, 32767, -32768, 1e-7, -1e-3, 0.5, 1e5, 1e30, -1e38, np.nan, np.inf)
ODD_WORDS = (
    *("0", "-1", "1", "3", "99999", "99999999999999999999", "nan", "inf", "-inf", "1e300", "x", "", '"', ",", "(1,2"),
    *("true", "False", "none", "raw", "gzip", "bzip2", "ascii", "LOCAL", "MET_FLOAT", "float", "block", "\xb5m", "m"),
)
ODD_BYTES = (b"", b"\0", b"\xff\xfe", b"\n", b"\r\n", b"\n\n", b"\x1f\x8b\x08", b"NaN", b"%s" * 3, b"\xc3\x28", b'"')


def heart(rng):
    """labels (X, Y, Z) u8 with the values 0 to 3, and an affine (4, 4), oblique or not."""
    shape = tuple(rng.integers(6, 15, 3))
    index = np.indices(shape).reshape(3, -1).T - np.array(shape) / 2
    labels = (np.linalg.norm(index, axis=1) < min(shape) / 2 - 1) * (1 + (index[:, 0] > 0) + (index[:, 1] > 1))
    affine = np.eye(4)
    turn = Rotation.from_rotvec(rng.normal(size=3)).as_matrix() if rng.random() < 0.4 else np.eye(3)
    affine[:3, :3] = turn * rng.uniform(0.5, 4, 3) * rng.choice([-1, 1], 3)
    affine[:3, 3] = rng.uniform(-200, 200, 3)
    return labels.reshape(shape).astype(np.uint8), affine


def damage(rng, data, words):
    """`data` with one change of its bytes: flipped bits, a cut, an insertion, a part gone or twice, bytes appended."""
    data = bytearray(data)
    where = int(rng.integers(0, len(data) or 1))
    if rng.random() < 0.5:  # headers come first
        where = int(rng.integers(0, min(len(data), 400) or 1))
    length = int(rng.choice([1, 2, 8, 100]))
    kind = rng.choice(["flip", "cut", "insert", "delete", "repeat", "append", "zeros"])
    if kind == "flip" and data:
        data[where] ^= 1 << int(rng.integers(8))
    elif kind == "cut":
        del data[where:]
    elif kind == "insert":
        data[where:where] = ODD_BYTES[rng.integers(len(ODD_BYTES))] * length
    elif kind == "delete":
        del data[where : where + length]
    elif kind == "repeat":
        data[where:where] = data[where : where + length]
    elif kind == "append":
        data += ODD_BYTES[rng.integers(len(ODD_BYTES))] * length
    else:
        data[where : where + length] = bytes(min(length, len(data) - where))
    words.append(f"{kind} {length} at {where}")
    return bytes(data)


def typed(rng, labels, words):
    """The labels in another type, sometimes with values that no label map has."""
    dtype = str(rng.choice(["u1", "u1", "i2", "<i4", ">i2", "u4", "i8", "u8", "f4", "f8", "i1", "u2"]))
    values = labels.astype(dtype)
    if rng.random() < 0.3:
        low, high = (-1e30, 1e30) if "f" in dtype else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        odd = rng.choice([-1, 4, 300, 0.5, np.nan, np.inf, low, high])
        if "f" not in dtype:
            odd = int(odd) if np.isfinite(odd) and low <= int(odd) <= high else high
        values[tuple(int(n) // 2 for n in values.shape)] = odd
        words.append(f"a value {odd}")
    words.append(f"type {dtype}")
    return values


def nifti(rng, words):
    labels, affine = heart(rng)
    values = typed(rng, labels, words) if rng.random() < 0.4 else labels
    kind = nib.Nifti2Image if rng.random() < 0.2 else nib.Nifti1Image
    image = kind(values, affine, dtype=values.dtype)
    image.set_sform(affine, int(rng.choice([0, 1, 1, 2, 4])))
    image.set_qform(affine, int(rng.choice([0, 1, 1, 2])))
    image.header.set_xyzt_units(str(rng.choice(["mm", "mm", "unknown", "meter", "micron"])))
    image.header["vox_offset"] = 352 if kind is nib.Nifti1Image else 544
    image.header["magic"] = b"n+1" if kind is nib.Nifti1Image else b"n+2"
    header = image.header
    for _ in range(int(rng.choice([0, 1, 1, 2]))):
        name = str(rng.choice(header.keys()))
        field = header[name]
        odd = ODD_NUMBERS[rng.integers(len(ODD_NUMBERS))]
        if field.dtype.kind == "S":
            odd = ODD_BYTES[rng.integers(len(ODD_BYTES))]
        elif field.dtype.kind != "f":
            limits = np.iinfo(field.dtype)
            odd = min(int(np.clip(odd, limits.min, limits.max)), limits.max) if np.isfinite(odd) else limits.max
        if field.ndim:
            place = int(rng.integers(len(field)))
            field = field.copy()
            with np.errstate(over="ignore"):
                field[place] = odd
            header[name] = field
            words.append(f"{name}[{place}] = {odd}")
        else:
            with np.errstate(over="ignore"):
                header[name] = odd
            words.append(f"{name} = {odd}")
    if rng.random() < 0.1:  # longer by rounding
        for n in "bcd":
            header[f"quatern_{n}"] *= 1 + 1e-6
        words.append("quaternion longer")
    data = header.binaryblock + bytes(4) + values.tobytes(order="F")
    return damage(rng, data, words) if rng.random() < 0.3 else data


def nifti_gz(rng, words):
    data = nifti(rng, words)
    if rng.random() < 0.1:
        middle = len(data) // 2
        words.append("two members")
        packed = gzip.compress(data[:middle], 4, mtime=0) + gzip.compress(data[middle:], 4, mtime=0)
    else:
        packed = gzip.compress(data, int(rng.choice([0, 4])), mtime=0)
    if rng.random() < 0.4:
        words.append("packed")
        packed = damage(rng, packed, words)
    return packed


def _edit_lines(rng, lines, sign, words):
    """Header lines with a few changes of their values, order and number."""
    lines = list(lines)
    for _ in range(int(rng.choice([0, 1, 1, 2]))):
        n = int(rng.integers(1, len(lines)))
        kind = rng.choice(["value", "number", "number", "gone", "twice", "moved"])
        name, _, value = lines[n].partition(sign)
        odd = ODD_WORDS[rng.integers(len(ODD_WORDS))]
        if kind == "value":
            lines[n] = f"{name}{sign} {odd}"
        elif kind == "number":
            parts = value.split(" ")
            parts[rng.integers(len(parts))] = odd
            lines[n] = f"{name}{sign}{' '.join(parts)}"
        elif kind == "gone":
            del lines[n]
        elif kind == "twice":
            lines.insert(int(rng.integers(1, len(lines))), lines[n])
        else:
            lines.insert(int(rng.integers(1, len(lines))), lines.pop(n))
        words.append(f"{kind}: {name} ({odd})")
        if len(lines) < 3:
            break
    return lines


NRRD_TYPES = {"u1": "uint8", "i1": "int8", "i2": "int16", "u2": "uint16", "i4": "int32", "u4": "uint32"}
NRRD_TYPES |= {"i8": "int64", "u8": "uint64", "f4": "float", "f8": "double"}


def nrrd(rng, words):
    labels, affine = heart(rng)
    values = typed(rng, labels, words) if rng.random() < 0.4 else labels
    raw = values.astype(values.dtype.newbyteorder("<")).tobytes(order="F")
    encoding = str(rng.choice(["raw", "gzip", "bzip2", "ascii"]))
    import bz2

    packed = {
        "raw": lambda: raw,
        "gzip": lambda: gzip.compress(raw, 4, mtime=0),
        "bzip2": lambda: bz2.compress(raw),
        "ascii": lambda: " ".join(f"{v:g}" for v in values.ravel(order="F").tolist()).encode(),
    }[encoding]()
    if rng.random() < 0.25:
        packed = damage(rng, packed, words)
    digits = int(rng.choice([2, 3, 12]))
    directions = " ".join(f"({','.join(f'{x:.{digits}f}' for x in axis)})" for axis in affine[:3, :3].T)
    lines = ["NRRD0005", f"type: {NRRD_TYPES[values.dtype.str[1:]]}", "dimension: 3"]
    lines += [f"sizes: {' '.join(map(str, values.shape))}", f"encoding: {encoding}", "endian: little"]
    lines += ["space: " + str(rng.choice(["left-posterior-superior", "right-anterior-superior", "LAS"]))]
    lines += [f"space directions: {directions}", f"space origin: ({','.join(f'{x:.6f}' for x in affine[:3, 3])})"]
    if rng.random() < 0.3:
        lines += ['space units: "mm" "mm" "mm"']
    if rng.random() < 0.3:
        lines += ["kinds: domain domain domain", "Segment0_Name:=LV", "Segment0_LabelValue:=1", "# a remark"]
    lines = _edit_lines(rng, lines, ":", words)
    words.append(encoding)
    data = "\n".join(lines).encode("latin-1") + b"\n\n" + packed
    return damage(rng, data, words) if rng.random() < 0.25 else data


META_TYPES = {"u1": "UCHAR", "i1": "CHAR", "i2": "SHORT", "u2": "USHORT", "i4": "INT", "u4": "UINT"}
META_TYPES |= {"i8": "LONG_LONG", "u8": "ULONG_LONG", "f4": "FLOAT", "f8": "DOUBLE"}


def meta_image(rng, words):
    labels, affine = heart(rng)
    values = typed(rng, labels, words) if rng.random() < 0.4 else labels
    raw = values.astype(values.dtype.newbyteorder("<")).tobytes(order="F")
    packed = rng.random() < 0.5
    data = zlib.compress(raw) if packed else raw
    size = len(data)
    if rng.random() < 0.25:
        data = damage(rng, data, words)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    digits = int(rng.choice([2, 3, 12]))
    direction = " ".join(f"{x:.{digits}f}" for x in (affine[:3, :3] / spacing).T.ravel())
    lines = ["ObjectType = Image", "NDims = 3", "BinaryData = True", "BinaryDataByteOrderMSB = False"]
    lines += [f"CompressedData = {packed}", *([f"CompressedDataSize = {size}"] if packed else [])]
    lines += [f"TransformMatrix = {direction}", f"Offset = {' '.join(f'{x:.6f}' for x in affine[:3, 3])}"]
    lines += [
        f"ElementSpacing = {' '.join(f'{x:.9f}' for x in spacing)}",
        f"DimSize = {' '.join(map(str, labels.shape))}",
    ]
    if rng.random() < 0.2:
        lines += ["DistanceUnits = mm"]
    lines = _edit_lines(rng, [*lines, f"ElementType = MET_{META_TYPES[values.dtype.str[1:]]}"], "=", words)
    head = "\n".join([*lines, "ElementDataFile = LOCAL", ""]).encode("latin-1")
    return damage(rng, head + data, words) if rng.random() < 0.25 else head + data


def arrays_to_npz(rng, arrays, words):
    """An npz of `arrays`, some of them changed in type, shape or values, or gone; sometimes with damaged bytes."""
    arrays = dict(arrays)
    for _ in range(int(rng.choice([0, 0, 1, 1, 2]))):
        if not arrays:
            break
        name = str(rng.choice(sorted(arrays)))
        array = np.array(arrays[name])
        kind = str(rng.choice(["type", "shape", "value", "gone", "empty", "text", "huge"]))
        if kind == "gone":
            del arrays[name]
        elif kind == "empty":
            arrays[name] = array[:0] if array.ndim else np.zeros(0)
        elif kind == "text":
            arrays[name] = np.array(["a", "b"])
        elif kind == "shape":
            arrays[name] = array[..., None] if rng.random() < 0.5 else array.ravel()[:7]
        elif kind == "type":
            dtype = str(rng.choice(["f8", "f2", "i4", "u1", "?", "c16", "U5"]))
            with np.errstate(all="ignore"):
                try:
                    arrays[name] = array.astype(dtype)
                except (ValueError, OverflowError):
                    arrays[name] = np.zeros(array.shape, dtype)
        elif kind == "huge":
            arrays[name] = np.full(array.shape, 40000, array.dtype if array.dtype.kind in "if" else "i4")
        elif array.size and array.dtype.kind in "ifu":
            array.reshape(-1)[rng.integers(array.size)] = (
                rng.choice([np.nan, np.inf, 1e9, -1e30]) if array.dtype.kind == "f" else 99
            )
            arrays[name] = array
        words.append(f"{kind}: {name}")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED if rng.random() < 0.3 else zipfile.ZIP_STORED
            member = io.BytesIO()
            np.save(member, array, allow_pickle=False)
            content = member.getvalue()
            if rng.random() < 0.02:  # inside, where the checksum is right
                content = damage(rng, content, words)
            archive.writestr(info, content)
    data = buffer.getvalue()
    return damage(rng, data, words) if rng.random() < 0.4 else data


def odd_meta(rng, meta, words):
    """`meta` (JSON text) with one entry changed."""
    meta = json.loads(meta)
    name = str(rng.choice(sorted(meta)))
    odd = [None, -1, 1e30, "x", [], {}, [1, 2], ["a"], 300, True][rng.integers(10)]
    if rng.random() < 0.2:
        del meta[name]
    else:
        meta[name] = odd
    words.append(f"meta {name}: {odd}")
    return np.array(json.dumps(meta))


def cloud_arrays(rng, words):
    points = rng.normal(size=(40, 3)) * 30
    labels = rng.integers(1, 4, 40).astype(np.uint8)
    if rng.random() < 0.5:
        points[rng.integers(40), rng.integers(3)] = rng.choice([np.nan, np.inf, 1e9, -1e9, 1e300, 5.0, 500.0])
        words.append("an odd point")
    if rng.random() < 0.2:
        points *= rng.choice([1e-3, 1e3, 0, 1e200])
        words.append("scaled")
    return points, labels


def cloud_npz(rng, words):
    points, labels = cloud_arrays(rng, words)
    return arrays_to_npz(rng, {"points_mm": points, "labels": labels}, words)


def cloud_ply(rng, words):
    points, labels = cloud_arrays(rng, words)
    binary = rng.random() < 0.5
    lines = ["ply", f"format {'binary_little_endian' if binary else 'ascii'} 1.0", "element vertex 40"]
    lines += [*(f"property double {n}" for n in "xyz"), "property uchar label", "end_header"]
    if rng.random() < 0.3:
        lines = _edit_lines(rng, lines, " ", words)
    rows = np.zeros(40, [(n, "<f8") for n in "xyz"] + [("label", "u1")])
    for n, column in zip("xyz", points.T):
        rows[n] = column
    rows["label"] = labels
    text = "\n".join(" ".join(map(str, row)) for row in rows.tolist()) + "\n"
    data = "\n".join([*lines, ""]).encode("latin-1") + (rows.tobytes() if binary else text.encode())
    return damage(rng, data, words) if rng.random() < 0.5 else data


def table(rng, words):
    rows = ["case_id,file,group,missing_classes,border_classes", "a,a.npz,p1,,", "b,b.npz,p2,2,1;3", "c,c.npz,,,"]
    if rng.random() < 0.6:
        n = int(rng.integers(len(rows)))
        parts = rows[n].split(",")
        parts[rng.integers(len(parts))] = ODD_WORDS[rng.integers(len(ODD_WORDS))]
        rows[n] = ",".join(parts)
        words.append(f"row {n}: {rows[n]}")
    data = "\n".join([*rows, ""]).encode(
        str(rng.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"])), "replace"
    )
    return damage(rng, data, words) if rng.random() < 0.6 else data


def mapping(rng, words):
    content = {
        "values": {"5": 1, "6": {"class": 2, "name": "RV"}, "7": "Aorta"},
        "others": "refuse",
        "annotated": [1, 2],
    }
    odd = [None, -1, 0, 4, 1e30, 1.5, "LV", "", [], {}, [1], {"class": 9}, {"name": "x"}, True, "9" * 5000][
        rng.integers(15)
    ]
    where = int(rng.integers(6))
    if where < 3:
        content["values"][str(rng.choice(["5", "6", "7", "-8", "x", "1.5", "1e3", "9" * 400]))] = odd
    elif where == 3:
        content[str(rng.choice(["values", "others", "annotated", "more"]))] = odd
    words.append(f"{where}: {str(odd)[:30]}")
    data = json.dumps(content).encode()
    return damage(rng, data, words) if rng.random() < 0.6 else data
