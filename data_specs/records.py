"""Completion records of shards: the row of each stage about a clip, and how records are read, checked and encoded.

A record is the group ``progress/<stage>[/<view>]/<shard>``, or what its ``zarr.json`` was in a pack of finished shards
(`data_specs.record_packs`); its attributes are those of `Record.as_attributes`. One whose content breaks a type or
range below, or that has another key, counts as damaged, whoever wrote it: code that reads records need not check them
again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from operator import lt
from typing import Annotated, Any, ClassVar, Generic, TypeVar, cast

from pydantic import AfterValidator, ConfigDict, Discriminator, Field, GetPydanticSchema, Tag, TypeAdapter, with_config
from pydantic_core import core_schema
from typing_extensions import TypedDict  # pydantic requires it before Python 3.12
from zarr.abc.store import Store as ZarrStore

from data_specs import schema
from data_specs.fingerprints import LENGTH, fingerprint
from data_specs.locations import Damaged
from data_specs.objects import Attributes, parse_attributes
from data_specs.record_packs import REMOVED, record_documents
from data_specs.schema import MAX_CLIPS, MAX_FRAMES, MAX_ID, MAX_SEGMENTS, MAX_SIDE, MAX_TEXT_BYTES, MAX_VECTORS
from mocrop_core import Box, BoxPath

_MAX_BYTES = 1 << 50
_CLOSED = ConfigDict(extra="forbid")


def _increasing(numbers: tuple[int, ...]) -> tuple[int, ...]:
    if not all(map(lt, numbers, numbers[1:])):
        raise ValueError("the frames are not in increasing order")
    return numbers


def _checked_key(key: str) -> str:
    if any(part in ("", ".", "..") for part in key.split("/")):
        raise ValueError("not a key below motion/ or views/")
    return key


def _stored_as(form: Any, decode: Callable[[Any], Any], encode: Callable[[Any], Any]) -> GetPydanticSchema:
    """Validate a value as ``form`` and pass it to ``decode``; ``encode`` gives the JSON-like value back."""
    return GetPydanticSchema(
        lambda _, handler: core_schema.no_info_after_validator_function(
            decode, handler(form), serialization=core_schema.plain_serializer_function_ser_schema(encode)
        )
    )


_Text = Annotated[str, Field(strict=True, max_length=MAX_TEXT_BYTES)]
_Id = Annotated[str, Field(strict=True, min_length=1, max_length=MAX_ID)]
_Hash = Annotated[str, Field(strict=True, pattern=f"^[0-9a-f]{{{LENGTH}}}$")]
_Key = Annotated[
    str, Field(strict=True, pattern=r"^(motion|views)/[A-Za-z0-9_./-]{1,500}$"), AfterValidator(_checked_key)
]
_Bytes = Annotated[int, Field(strict=True, ge=0, le=_MAX_BYTES)]
_Count = Annotated[int, Field(strict=True, ge=0, le=MAX_FRAMES)]
_Frame = Annotated[int, Field(strict=True, ge=0, lt=MAX_FRAMES)]
_Frames = Annotated[tuple[_Frame, ...], AfterValidator(_increasing)]
_Side = Annotated[int, Field(strict=True, ge=1, le=MAX_SIDE)]
_Edge = Annotated[int, Field(strict=True, ge=0, le=MAX_SIDE)]
_Corners = tuple[_Edge, _Edge, _Edge, _Edge]
_Moment = Annotated[float, Field(strict=True, ge=-1, le=MAX_FRAMES, allow_inf_nan=False)]
_Score = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
_Notes = dict[Annotated[str, Field(strict=True, max_length=40)], _Text]


@with_config(_CLOSED)
class _PathForm(TypedDict):
    moments: Annotated[tuple[_Moment, ...], Field(max_length=MAX_SEGMENTS)]
    boxes: Annotated[tuple[_Corners, ...], Field(max_length=MAX_SEGMENTS)]


_Box = Annotated[Box, _stored_as(_Corners, lambda corners: Box(*corners), lambda box: box.corners)]
_Path = Annotated[
    BoxPath,
    _stored_as(
        _PathForm,
        lambda form: BoxPath(form["moments"], tuple(Box(*corners) for corners in form["boxes"])),
        lambda path: {"moments": path.moments, "boxes": [box.corners for box in path.boxes]},
    ),
]


# A field that has its default value is not written.


@with_config(_CLOSED)
@dataclass(frozen=True, slots=True)
class TranscodeRow:
    """The source file of a clip (its fingerprint and size in bytes) and, unless it is kept, its H.264 file.

    frames: decoded from the source file; missing: frames that could not be decoded; notes: one line for each kind of
    `schema.NOTES` that occurs; first_frame: the number of a window's first frame in the source file.
    """

    stage: ClassVar[str] = "transcode"

    source: _Text
    bytes: _Bytes
    h264: _Text | None = None
    h264_bytes: _Bytes | None = None
    frames: _Count | None = None
    missing: _Count = 0
    notes: _Notes = field(default_factory=dict)
    first_frame: _Count = 0


@with_config(_CLOSED)
@dataclass(frozen=True, slots=True)
class MotionRow:
    """What the decoding of a clip's H.264 file gave: frames, height and width in px, key frames, number of vectors.

    picture: the part of the frame inside black bars, None in records from before texture was stored; missing, notes,
    first_frame: as in `TranscodeRow`.
    """

    stage: ClassVar[str] = "motion"

    frames: _Count
    size: tuple[_Side, _Side]
    key_frames: _Frames
    vectors: Annotated[int, Field(strict=True, ge=0, le=MAX_VECTORS)]
    picture: _Box | None = None
    missing: _Count = 0
    notes: _Notes = field(default_factory=dict)
    first_frame: _Count = 0


@with_config(_CLOSED)
@dataclass(frozen=True, slots=True)
class BoxRow:
    """The box of a clip in a view, px of the H.264 frame.

    score: share of the density inside the box, 0 to 1, None where there is no density; source: a ``SOURCE_*`` of
    `mocrop_core.method`; path: the moving box, None where it stays.
    """

    stage: ClassVar[str] = "boxes"

    box: _Box
    score: _Score | None
    source: Annotated[int, Field(strict=True, ge=1, le=3)]
    path: _Path | None = None

    def box_at(self, frame: int) -> Box:
        """The box in a frame."""
        return self.box if self.path is None else self.path.box_at(frame)

    def inside(self, frame_size: tuple[int, int]) -> bool:
        """Return whether the box stays inside frames of this height and width."""
        boxes = (self.box, *(self.path.boxes if self.path else ()))
        return all(box.y1 <= frame_size[0] and box.x1 <= frame_size[1] for box in boxes)


@with_config(_CLOSED)
@dataclass(frozen=True, slots=True)
class CropRow:
    """The frames of a clip that a view caches: their indices in the H.264 file."""

    stage: ClassVar[str] = "clips"

    frame_index: Annotated[_Frames, Field(min_length=1, max_length=1024)]


@with_config(_CLOSED)
@dataclass(frozen=True, slots=True)
class _Quarantined:
    reason: _Text


Row = TypeVar("Row", TranscodeRow, MotionRow, BoxRow, CropRow)


@dataclass(frozen=True)
class Record(Generic[Row]):
    """A completed shard of a stage (and view): what it was made from, and the results.

    inputs: fingerprint of all that decides the results; clips: the row of each clip that was not quarantined;
    reasons: why the others were, here or in an earlier stage; objects: SHA-256 of each object that the task wrote, by
    its key; sizes: their bytes, which show at once that a file was cut short; software: versions of the packages that
    made them.
    """

    stage: str
    view: str | None
    shard: int
    inputs: str
    clips: Mapping[str, Row]
    reasons: Mapping[str, str]
    objects: Mapping[str, str]
    sizes: Mapping[str, int] = field(default_factory=dict)
    software: Mapping[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return schema.progress_path(self.stage, self.view, self.shard)

    @property
    def ids(self) -> set[str]:
        """The ids of all clips of the shard."""
        return self.clips.keys() | self.reasons.keys()

    @cached_property
    def output(self) -> str:
        """The fingerprint of inputs and results, whichever versions made them: the link to the next stage."""
        return fingerprint(self.stage, self.view, self.inputs, self._rows(), dict(self.objects))

    @property
    def notes(self) -> dict[str, dict[str, str]]:
        """The notes of this stage: for each kind (`schema.NOTES`) one line by clip id."""
        notes: dict[str, dict[str, str]] = {}
        for id, row in self.clips.items():
            if isinstance(row, (TranscodeRow, MotionRow)):
                for kind, text in row.notes.items():
                    notes.setdefault(kind, {})[id] = text
        return notes

    def as_attributes(self) -> Attributes:
        """The record as the attributes of its group."""
        return {
            "inputs": self.inputs,
            "output": self.output,
            "clips": self._rows(),
            "objects": self.objects,
            "sizes": self.sizes,
            "software": self.software,
        }

    def _rows(self) -> Attributes:
        quarantined = {id: {"reason": reason} for id, reason in self.reasons.items()}
        return {**{id: encode_row(row) for id, row in self.clips.items()}, **quarantined}


def encode_row(row: TranscodeRow | MotionRow | BoxRow | CropRow) -> Attributes:
    """A row as JSON-like values."""
    return cast(Attributes, _ROWS[type(row)].dump_python(row, exclude_defaults=True))


def decode_row(row_type: type[Row], values: Any) -> Row:
    """The row that JSON-like values encode; ``ValueError`` if they are not a row of this type."""
    return cast(Row, _ROWS[row_type].validate_python(values))


def decode_record(row_type: type[Row], view: str | None, shard: int, values: Any) -> Record[Row]:
    """The record that the attributes of a group encode; ``ValueError`` if they are not a record of this stage."""
    content = _RECORDS[row_type].validate_python(values)
    clips = {id: row for id, row in content["clips"].items() if not isinstance(row, _Quarantined)}
    reasons = {id: row.reason for id, row in content["clips"].items() if isinstance(row, _Quarantined)}
    parts = (content[name] for name in ("objects", "sizes", "software"))
    record = Record(row_type.stage, view, shard, content["inputs"], clips, reasons, *parts)
    output = fingerprint(row_type.stage, view, values["inputs"], values["clips"], values["objects"])
    if content["output"] != output:
        raise ValueError("its fingerprint does not follow from its content")
    vars(record)["output"] = output  # as the property would compute it, without encoding the rows again
    return record


def read_records(
    store: ZarrStore,
    row_type: type[Row],
    view: str | None,
    shards: Iterable[int],
    damaged: list[str] | None = None,
    own: Collection[str] | None = None,
) -> dict[int, Record[Row]]:
    """The existing records of a stage (and view), by shard, packed or not.

    A damaged record counts as missing; its path is appended to ``damaged``. ``own``: as in `record_documents`.
    """
    records = {}
    for shard, text in record_documents(store, row_type.stage, view, shards, own).items():
        path = schema.progress_path(row_type.stage, view, shard)
        values = parse_attributes(path, text)
        if values == REMOVED:
            continue
        try:
            if isinstance(values, Damaged):
                raise values
            records[shard] = decode_record(row_type, view, shard, values)
        except (Damaged, ValueError, RecursionError):
            if damaged is not None:
                damaged.append(path)
    return records


def _record_adapter(row_type: Any) -> TypeAdapter[Any]:
    row: Any = Annotated[
        Annotated[_Quarantined, Tag("quarantined")] | Annotated[row_type, Tag("done")],
        Discriminator(lambda value: "quarantined" if isinstance(value, dict) and "reason" in value else "done"),
    ]

    @with_config(_CLOSED)
    class _Content(TypedDict):
        inputs: _Text
        output: _Text
        clips: Annotated[dict[_Id, row], Field(max_length=MAX_CLIPS)]
        objects: dict[_Key, _Hash]
        sizes: dict[_Key, _Bytes]
        software: dict[_Text, _Text]

    return TypeAdapter(_Content)


_ROW_TYPES: tuple[Any, ...] = (TranscodeRow, MotionRow, BoxRow, CropRow)
_ROWS = {row_type: TypeAdapter(row_type) for row_type in _ROW_TYPES}
_RECORDS = {row_type: _record_adapter(row_type) for row_type in _ROW_TYPES}
