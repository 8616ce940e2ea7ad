"""Numeric arrays of a MATLAB level 5 file, as written by ``save -v6`` and ``-v7``.

Format: MAT-File Level 5 File Format (MathWorks). Variables that are not real numbers (structures, cells, strings,
sparse arrays) are ignored. Nothing in such a file is executed, and its unpacked size is bounded.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_BYTES = 1 << 29  # of a variable, unpacked

_HEADER = 128
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_MATRIX, _COMPRESSED = 14, 15
_NUMERIC = range(6, 16)  # classes: double, single, and whole numbers of 8 to 64 bits
_COMPLEX = 0x0800


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The numeric variables of a file, by name. ``ValueError`` for a file in another format."""
    content = path.read_bytes()
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None or struct.unpack(order + "H", content[124:126])[0] != 0x0100:
        raise ValueError("not a MATLAB file of level 5 (save it with -v7)")
    found = {}
    for kind, body in _elements(content, _HEADER, order):
        if kind == _COMPRESSED:
            kind, body = next(_elements(_unpacked(body), 0, order), (0, b""))
        if kind == _MATRIX and (array := _matrix(body, order)):
            found[array[0]] = array[1]
    return found


def _elements(content: bytes, start: int, order: str) -> Iterator[tuple[int, bytes]]:
    """Type and bytes of each data element."""
    while start < len(content):
        if start + 8 > len(content):
            raise ValueError("it ends in the middle")
        kind, size = struct.unpack_from(order + "II", content, start)
        if kind >> 16:  # a small element: size and type share four bytes, the data are in the next four
            kind, size, begin, after = kind & 0xFFFF, kind >> 16, start + 4, start + 8
        else:
            begin = start + 8
            after = begin + size + (-size % 8 if kind != _COMPRESSED else 0)
        if begin + size > len(content):
            raise ValueError("it ends in the middle")
        yield kind, content[begin : begin + size]
        start = after


def _unpacked(body: bytes) -> bytes:
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(body, MAX_BYTES)
    except zlib.error as error:
        raise ValueError(f"a variable does not unpack: {error}") from None
    if not stream.eof:
        raise ValueError(f"a variable has more than {MAX_BYTES} bytes, or is truncated")
    return content


def _matrix(body: bytes, order: str) -> tuple[str, npt.NDArray[Any]] | None:
    """The name and the values of an array; None if it is not real and numeric."""
    parts = list(_elements(body, 0, order))
    if len(parts) < 4:
        return None  # an empty one ends here
    (_, flags), (_, dims), (_, name), (kind, values) = parts[:4]
    flag = struct.unpack_from(order + "I", flags)[0] if len(flags) >= 4 else 0
    if flag & 0xFF not in _NUMERIC or flag & _COMPLEX or kind not in _TYPES:
        return None
    if len(dims) % 4:
        raise ValueError("dimensions that are not whole numbers of 32 bits")
    shape = struct.unpack(f"{order}{len(dims) // 4}i", dims)
    array = np.frombuffer(values, order + _TYPES[kind])
    if min(shape) < 0 or math.prod(shape) != len(array):
        raise ValueError(f"{len(array)} values for an array of {'×'.join(map(str, shape))}")
    return name.decode("latin-1"), array.reshape(shape, order="F")
