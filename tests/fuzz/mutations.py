# SPDX-License-Identifier: Apache-2.0
"""Seeded mutations of files: of bytes, of words and numbers of a text, of values of JSON, and of members of a zip."""

import copy
import io
import json
import random
import struct
import zipfile

# Numbers at the limits of types, and numbers that ask for more memory than there is.
INTEGERS = (
    0,
    1,
    2,
    127,
    128,
    255,
    256,
    32767,
    65535,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**63 - 1,
    2**64 - 1,
)
NUMBER_TEXTS = (
    b"0", b"-1", b"1e400", b"-1e308", b"NaN", b"Infinity", b"nan", b"inf", b"1e30", b"1" * 400, b"1" * 5000,
    b"2147483648", b"9223372036854775808", b"0x10", b"1_0", b"1.5", b"",
)  # fmt: skip
NESTED = "nested"  # stands for 3,000 nested lists, which json.dumps itself cannot write
VALUES = (
    None, True, False, 0, -1, 1.5, 2**31, 2**63, 10**30, 10**400, 1e308, float("nan"), float("inf"), "", "text",
    "1", "../../x", "a\x00b", "\x1b[31m", "\udc80", "x" * 5000, [], {}, [1], [[]], {"a": 1}, [None] * 4, NESTED,
)  # fmt: skip
DEPTH = 3000


def mutated(seed_files: list[bytes], tokens: tuple[bytes, ...], is_json: bool, name: str) -> bytes:
    """The input that `name` stands for: one of the seed files after 1 to 4 mutations."""
    rng = random.Random(name)
    data = rng.choice(seed_files)
    if is_json and rng.random() < 0.5:
        return mutated_json(data, rng)
    if data.startswith(b"PK") and rng.random() < 0.5:
        return mutated_zip(data, tokens, rng)
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = _one(data, tokens, rng)
    return data


def mutated_json(data: bytes, rng: random.Random) -> bytes:
    """JSON after 1 to 3 of its values are replaced, removed, doubled or exchanged."""
    content = [json.loads(data)]
    for _ in range(rng.choice((1, 1, 3))):
        places = list(_places(content))
        box, key = rng.choice(places)
        kind = rng.randrange(5)
        if kind == 0:
            del box[key]
        elif kind == 1 and isinstance(box, list):
            box.insert(key, copy.deepcopy(box[key]))
        elif kind == 2:
            other, there = rng.choice(places)
            box[key] = copy.deepcopy(other[there])
        else:
            box[key] = rng.choice(VALUES)
        content = content or [None]
    text = json.dumps(content[0]).replace(f'"{NESTED}"', "[" * DEPTH + "]" * DEPTH)
    return text.encode()


def mutated_zip(data: bytes, tokens: tuple[bytes, ...], rng: random.Random) -> bytes:
    """A zip file whose directory is whole, after 1 to 4 mutations of one of its members."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(out, "w") as changed:
        chosen = rng.choice(archive.namelist())
        for member in archive.infolist():
            content = archive.read(member)
            for _ in range(rng.choice((1, 1, 2, 4)) * (member.filename == chosen)):
                content = _one(content, tokens, rng)
            changed.writestr(member, content)
    return out.getvalue()


def _places(value):
    """(container, key or index) of every value within `value`."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(items):
        yield value, key
        yield from _places(item)


def _one(data: bytes, tokens: tuple[bytes, ...], rng: random.Random) -> bytes:
    at, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    end = min(end, at + rng.choice((1, 4, 16, 64, 1 << 20)))
    match rng.randrange(10):
        case 0:
            return data[:at]
        case 1:
            return data[:at] + data[end:]
        case 2:
            return data[:end] + data[at:end] * rng.choice((1, 2, 50)) + data[end:]
        case 3:
            return data[:at] + rng.randbytes(end - at) + data[end:]
        case 4 | 5 if data:
            changed = bytearray(data)
            for _ in range(rng.choice((1, 1, 4, 16))):
                changed[rng.randrange(len(data))] = rng.randrange(256)
            return bytes(changed)
        case 6:
            size = rng.choice("BHIQ")
            number = rng.choice(INTEGERS) % (1 << 8 * struct.calcsize(size))
            packed = struct.pack(rng.choice("<>") + size, number)
            return data[:at] + packed + data[at + len(packed) :]
        case 7:
            return _with_number(data, rng)
    token = rng.choice((*tokens, b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\r\n", b"\x1b[2J"))
    return data[:at] + token + data[rng.choice((at, end)) :]


def _with_number(data: bytes, rng: random.Random) -> bytes:
    """The data with another number in place of the first one after a random position."""
    digits = b"0123456789"
    start = next((i for i in range(rng.randrange(len(data) + 1), len(data)) if data[i] in digits), None)
    if start is None:
        return data + rng.choice(NUMBER_TEXTS)
    end = next((i for i in range(start, len(data)) if data[i] not in digits + b".-"), len(data))
    return data[:start] + rng.choice(NUMBER_TEXTS) + data[end:]
