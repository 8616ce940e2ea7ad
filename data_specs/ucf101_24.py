"""The actor boxes of UCF101-24 as published: ``pyannot.pkl``, a pickle.

From https://github.com/gurkirt/corrected-UCF101-Annots (Singh et al. 2017): ``{"Basketball/v_Basketball_g01_c01":
{"annotations": [{"label", "sf", "ef", "boxes"}], "label", "numf"}}``, where ``boxes`` is an array of x, y, width and
height for the frames ``sf`` to ``ef`` (exclusive), in px of a frame of 320 × 240.

A pickle is a program. This one is read without executing any of its code: only instructions that build plain values
are allowed, and the NumPy names that it calls are replaced by classes of this module, which store their arguments. An
array is then made from its bytes, for integer and real types only.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_specs.annotations import Annotation, AnnotationError
from data_specs.schema import MAX_FRAMES

FRAME_SIZE = (240, 320)  # height, width
MAX_BYTES = 1 << 28
MAX_BOXES = 50_000_000

_REFUSED = {"PERSID", "BINPERSID", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"}
_REFUSED |= {"NEXT_BUFFER", "READONLY_BUFFER"}
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT"}
_NUMBERS = {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)} | {"f4", "f8"}


class _Kept:
    """The arguments of a call in the pickle, in place of its result."""

    def __init__(self, *args: Any) -> None:
        self.args: tuple[Any, ...] = args
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Reconstructed(_Kept):
    """``numpy.core.multiarray._reconstruct``, then its state: version, shape, type, order, bytes."""


class _FromBuffer(_Kept):
    """``numpy.core.numeric._frombuffer``: bytes, type, shape, order."""


class _Scalar(_Kept):
    """``numpy.core.multiarray.scalar``: type, bytes."""


class _Type(_Kept):
    """``numpy.dtype``: its name, then its state: version, byte order, …"""


class _Encoded(_Kept):
    """``_codecs.encode``, with which Python 3 writes bytes for Python 2."""


class _Name(_Kept):
    """``numpy.ndarray``, which is only referred to."""


_STAND_INS: dict[tuple[str, str], type[_Kept]] = {
    ("numpy", "ndarray"): _Name,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _Encoded,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Reconstructed for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _Scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _FromBuffer for core in ("core", "_core")},
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type[_Kept]:
        if (module, name) not in _STAND_INS:
            raise ValueError(f"it calls {module}.{name}, which is not allowed")
        return _STAND_INS[module, name]


def read_ucf101_24(path: Path) -> dict[str, Annotation]:
    """The annotations of each clip. Raises a one-line ``AnnotationError`` for other contents."""
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    try:
        if len(content) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        _check_instructions(content)
        clips = _Reader(io.BytesIO(content), encoding="latin-1").load()
        if not isinstance(clips, dict) or not all(isinstance(id, str) for id in clips):
            raise ValueError("it is not a dictionary of clips by name")
        found, boxes = {}, 0
        for id, clip in clips.items():
            found[id] = _annotation(id, clip)
            boxes += len(found[id].frame)
            if boxes > MAX_BOXES:
                raise ValueError(f"more than {MAX_BOXES} boxes")
        return found
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, OverflowError,
            pickle.UnpicklingError) as error:  # fmt: skip
        what = f"{'no ' if isinstance(error, KeyError) else ''}{' '.join(str(error).split())}"
        raise AnnotationError(f"annotations {str(path)!r}: not UCF101-24's pyannot.pkl: {what}") from None


def _check_instructions(content: bytes) -> None:
    """``ValueError`` for a pickle with instructions that do more than build plain values."""
    for count, (code, argument, _) in enumerate(pickletools.genops(content)):
        if code.name in _REFUSED:
            raise ValueError(f"it has the instruction {code.name}, which is not allowed")
        if code.name in _PUTS and int(argument or 0) > count:  # memory for the memo is allocated up to this number
            raise ValueError(f"it stores value {count} at memo position {argument}")


def _annotation(id: str, clip: Any) -> Annotation:
    frames, boxes, notes = [np.empty(0, np.int64)], [np.empty((0, 4))], []
    for number, tube in enumerate(clip["annotations"]):
        start, end, xywh = _whole(tube["sf"]), _whole(tube["ef"]), _array(tube["boxes"])
        if xywh.ndim != 2 or xywh.shape[1] != 4:
            raise ValueError(f"{id}: boxes of shape {xywh.shape}, not (n, 4)")
        if not 0 <= start <= end <= MAX_FRAMES or end - start != len(xywh):
            notes.append(f"actor {number}: {len(xywh)} boxes for frames {start} to {end} (exclusive) left out")
            continue
        frames.append(np.arange(start, end))
        boxes.append(xywh.astype(np.float64))
    return Annotation(np.concatenate(frames), np.concatenate(boxes), _whole(clip["numf"]), FRAME_SIZE, tuple(notes))


def _whole(value: Any) -> int:
    if isinstance(value, _Scalar):
        kind, content = value.args
        value = np.frombuffer(_bytes(content), _dtype(kind))[0].item()
    elif isinstance(value, _Kept):
        value = _array(value).item()
    if not isinstance(value, int | float) or value != int(value):
        raise ValueError(f"{value!r:.60} is not a whole number")
    return int(value)


def _array(value: Any) -> npt.NDArray[Any]:
    if isinstance(value, _Reconstructed):
        _, shape, kind, fortran, content = value.state
        order = "F" if fortran else "C"
    elif isinstance(value, _FromBuffer):
        content, kind, shape, order = value.args
    else:
        return np.asarray(value, np.float64)  # lists of numbers
    sides = tuple(_whole(side) for side in shape)
    return np.frombuffer(_bytes(content), _dtype(kind)).reshape(sides, order="F" if order == "F" else "C")


def _dtype(kind: Any) -> np.dtype[Any]:
    name, order = kind.args[0], kind.state[1] if kind.state else "="
    if name not in _NUMBERS or order not in ("<", ">", "|", "="):
        raise ValueError(f"an array of the type {name!r:.20}")
    return np.dtype(f"{order}{name}")


def _bytes(value: Any) -> bytes:
    if isinstance(value, _Encoded):
        value = value.args[0]
    if isinstance(value, str):
        return value.encode("latin-1")
    if not isinstance(value, bytes | bytearray):
        raise ValueError(f"not the bytes of an array, but {type(value).__name__}")
    return bytes(value)
