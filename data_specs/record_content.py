"""What a record may say: the types and ranges of its numbers, and where its objects lie.

A record whose content is anything else counts as damaged, whoever wrote it: what reads records need not doubt them.
"""

from operator import lt
from typing import Annotated, Any, NotRequired

from pydantic import AfterValidator, ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict  # pydantic's own; Python's lacks what it needs before 3.12

from data_specs.fingerprints import LENGTH
from data_specs.schema import MAX_CLIPS, MAX_FRAMES, MAX_ID, MAX_SEGMENTS, MAX_SIDE, MAX_TEXT_BYTES, MAX_VECTORS, STAGES

_MOST_BYTES = 1 << 50
_STRICT = ConfigDict(strict=True, extra="allow")


def _rising(numbers: list[int]) -> list[int]:
    if not all(map(lt, numbers, numbers[1:])):
        raise ValueError("the frames do not rise")
    return numbers


def _inside(box: list[int]) -> list[int]:
    if not (box[0] < box[2] and box[1] < box[3]):
        raise ValueError("the box is empty")
    return box


def _key(key: str) -> str:
    if any(part in ("", ".", "..") for part in key.split("/")):
        raise ValueError("not a key below motion/ or views/")
    return key


_Text = Annotated[str, Field(max_length=MAX_TEXT_BYTES)]
_Id = Annotated[str, Field(min_length=1, max_length=MAX_ID)]
_Hash = Annotated[str, Field(pattern=f"^[0-9a-f]{{{LENGTH}}}$")]
_Bytes = Annotated[int, Field(ge=0, le=_MOST_BYTES)]
_Frame = Annotated[int, Field(ge=0, lt=MAX_FRAMES)]
_Frames = Annotated[list[_Frame], AfterValidator(_rising)]
_Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]
_Edge = Annotated[int, Field(ge=0, le=MAX_SIDE)]
_Box = Annotated[list[_Edge], Field(min_length=4, max_length=4), AfterValidator(_inside)]
_Moment = Annotated[float, Field(ge=-1, le=MAX_FRAMES, allow_inf_nan=False)]
_Key = Annotated[str, Field(pattern=r"^(motion|views)/[A-Za-z0-9_./-]{1,500}$"), AfterValidator(_key)]


@with_config(_STRICT)
class _Quarantined(TypedDict):
    reason: _Text


_Notes = dict[Annotated[str, Field(max_length=40)], _Text]


@with_config(_STRICT)
class _Transcoded(TypedDict):
    source: _Text
    bytes: _Bytes
    notes: NotRequired[_Notes]


@with_config(_STRICT)
class _Moved(TypedDict):
    frames: Annotated[int, Field(ge=0, le=MAX_FRAMES)]
    size: Annotated[list[_Side], Field(min_length=2, max_length=2)]
    key_frames: _Frames
    vectors: Annotated[int, Field(ge=0, le=MAX_VECTORS)]
    picture: NotRequired[_Box]
    notes: NotRequired[_Notes]


def _one_size(path: Any) -> Any:
    moments, boxes = path["moments"], path["boxes"]
    sizes = {(x1 - x0, y1 - y0) for x0, y0, x1, y1 in boxes}
    if len(boxes) != len(moments) or len(sizes) > 1 or not all(map(lt, moments, moments[1:])):
        raise ValueError("the boxes of a path have one size and rising moments, as many as boxes")
    return path


@with_config(_STRICT)
class _Moves(TypedDict):
    moments: Annotated[list[_Moment], Field(min_length=1, max_length=MAX_SEGMENTS)]
    boxes: Annotated[list[_Box], Field(min_length=1, max_length=MAX_SEGMENTS)]


@with_config(_STRICT)
class _Boxed(TypedDict):
    box: _Box
    path: NotRequired[Annotated[_Moves, AfterValidator(_one_size)]]
    score: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None
    source: Annotated[int, Field(ge=1, le=3)]


@with_config(_STRICT)
class _Cropped(TypedDict):
    frame_index: Annotated[_Frames, Field(min_length=1, max_length=1024)]


def _is_quarantined(row: Any) -> str:
    return "quarantined" if isinstance(row, dict) and "reason" in row else "done"


def _record(done: Any) -> TypeAdapter[Any]:
    row: Any = Annotated[
        Annotated[_Quarantined, Tag("quarantined")] | Annotated[done, Tag("done")],
        Discriminator(_is_quarantined),
    ]

    @with_config(_STRICT)
    class _Content(TypedDict):
        inputs: _Text
        clips: Annotated[dict[_Id, row], Field(max_length=MAX_CLIPS)]
        objects: dict[_Key, _Hash]
        sizes: dict[_Key, _Bytes]
        software: dict[_Text, _Text]

    return TypeAdapter(_Content)


_CONTENT = dict(zip(STAGES, map(_record, (_Transcoded, _Moved, _Boxed, _Cropped)), strict=True))


def check_content(stage: str, values: Any) -> None:
    """``ValueError`` in one line unless ``values``, the attributes of a record, are what this stage may say."""
    try:
        _CONTENT[stage].validate_python(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part)[:60] for part in first["loc"] if part not in ("quarantined", "done"))
        raise ValueError(f"{where}: {first['msg']}") from None
