"""Read actor boxes from the formats in common use; see docs/howto/evaluate.md.

- mocrop's JSON: ``{id: {"num_frames": n, "frame_size": [height, width], "tubes": [{"start_frame", "end_frame",
  "boxes_xywh"}]}}``: one box per frame from ``start_frame`` to ``end_frame`` (exclusive); frames count from 0.
  ``num_frames`` and ``frame_size`` are optional; a ``"frame_size"`` beside the ids applies to all clips.
- MOTChallenge's CSV (https://motchallenge.net/instructions): one file per clip, or one file with a column ``clip``.
- ``pyannot.pkl`` of UCF101-24: `data_specs.ucf101_24`.
- J-HMDB's ``puppet_mask`` or ``joint_positions``, and folders of masks as PNG: `data_specs.annotation_masks`.
"""

from __future__ import annotations

import configparser
import csv
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from data_specs.annotation_masks import JOINTS, PUPPETS, read_jhmdb, read_masks
from data_specs.annotations import Annotation, AnnotationError
from data_specs.schema import MAX_FRAMES, MAX_SIDE
from data_specs.ucf101_24 import read_ucf101_24

ACCEPTED = (
    "a JSON file, a MOTChallenge CSV file (.csv, .txt), UCF101-24's pyannot.pkl, or a folder of such CSV "
    "files, of J-HMDB's puppet_mask or joint_positions, or of masks (CLIP/00000.png)"
)
MOT_COLUMNS = ("frame", "id", "bb_left", "bb_top", "bb_width", "bb_height", "conf")

OnClip = Callable[[int, int], None]
Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]
FrameSize = tuple[Side, Side]


class _Tube(BaseModel):
    """One actor's boxes, one per frame."""

    model_config = ConfigDict(frozen=True)

    start_frame: int = Field(ge=0, le=MAX_FRAMES)
    end_frame: int = Field(ge=0, le=MAX_FRAMES)
    boxes_xywh: list[tuple[float, float, float, float]]

    @model_validator(mode="after")
    def _a_box_for_each_frame(self) -> _Tube:
        if len(self.boxes_xywh) != self.end_frame - self.start_frame:
            frames = f"frames {self.start_frame} to {self.end_frame}"
            raise ValueError(f"{len(self.boxes_xywh)} boxes for {frames} (exclusive)")
        return self


class _Clip(BaseModel):
    """The actors of one clip."""

    model_config = ConfigDict(frozen=True)

    num_frames: int | None = Field(None, ge=0, le=MAX_FRAMES)
    frame_size: FrameSize | None = None
    tubes: list[_Tube]


def read_annotations(path: str | Path, on_clip: OnClip = lambda done, total: None) -> dict[str, Annotation]:
    """The annotations by clip id, from a file or folder in any supported format.

    The format follows from the file's suffix or from the contents of the folder. ``on_clip`` is called for each clip
    that is read from a folder. Raises ``AnnotationError`` if the annotations are unreadable or in no supported format.
    """
    place = Path(path)
    try:
        if place.is_dir():
            return _read_folder(place, on_clip)
        match place.suffix.lower():
            case ".json":
                return _read_json(place)
            case ".csv" | ".txt":
                return _read_mot(place)
            case ".pkl" | ".pickle":
                return read_ucf101_24(place)
        raise (
            AnnotationError(f"annotations {str(place)!r}: give {ACCEPTED}")
            if place.exists()
            else FileNotFoundError(2, "No such file or directory")
        )
    except OSError as error:
        raise AnnotationError(f"annotations {str(error.filename or place)!r}: {error.strerror}") from None
    raise AnnotationError(f"annotations {str(place)!r}: give {ACCEPTED}")


def _read_folder(folder: Path, on_clip: OnClip) -> dict[str, Annotation]:
    """The annotations of the clips in a folder, whose files must all have one format; hidden files are ignored."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    if jhmdb := [path for path in files if path.name in (PUPPETS, JOINTS)]:
        return read_jhmdb(folder, jhmdb, on_clip)
    if sequences := [path for path in files if path.parts[-2:] == ("gt", "gt.txt")]:  # with pictures beside them
        return _read_mot_folder(folder, sequences, on_clip)
    tables = [path for path in files if path.suffix.lower() in (".csv", ".txt")]
    masks = [path for path in files if path.suffix.lower() == ".png"]
    if bool(tables) == bool(masks):
        what = (
            f"it has CSV files and PNG files, such as {tables[0].name!r}; give one kind"
            if tables
            else f"give {ACCEPTED}"
        )
        raise AnnotationError(f"annotations {str(folder)!r}: {what}")
    return _read_mot_folder(folder, tables, on_clip) if tables else read_masks(folder, masks, on_clip)


def _read_json(path: Path) -> dict[str, Annotation]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        common = None
        if isinstance(values, dict) and isinstance(values.get("frame_size"), list):  # else it is a clip's id
            common = TypeAdapter(FrameSize).validate_python(values.pop("frame_size"))
        clips = TypeAdapter(dict[str, _Clip]).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = " → ".join(str(part) for part in first["loc"]) or "the file"
        message = first["msg"].removeprefix("Value error, ")
        raise AnnotationError(f"annotations {str(path)!r}: {where}: {message}") from None
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"annotations {str(path)!r}: not JSON in UTF-8 ({error})") from None
    return {id: _of_tubes(clip, common) for id, clip in clips.items()}


def _of_tubes(clip: _Clip, common: tuple[int, int] | None) -> Annotation:
    frames = [np.empty(0, np.int64), *(np.arange(tube.start_frame, tube.end_frame) for tube in clip.tubes)]
    boxes = [box for tube in clip.tubes for box in tube.boxes_xywh]
    xywh = np.array(boxes, np.float64).reshape(-1, 4)
    return Annotation(np.concatenate(frames), xywh, clip.num_frames, clip.frame_size or common)


def _read_mot_folder(folder: Path, files: list[Path], on_clip: OnClip) -> dict[str, Annotation]:
    """``CLIP/gt/gt.txt``, or ``CLIP.txt`` and ``CLIP.csv``."""
    found: dict[str, Annotation] = {}
    for number, path in enumerate(files):
        on_clip(number, len(files))
        place = path.parents[1] if path.name == "gt.txt" else path.with_suffix("")
        named = folder.resolve().name if place == folder else place.relative_to(folder).as_posix()
        for id, annotation in _read_mot(path, named).items():
            if id in found:
                raise AnnotationError(f"annotations {str(path)!r}: a second file of the clip {id!r}")
            found[id] = annotation
    on_clip(len(files), len(files))
    return found


def _read_mot(path: Path, id: str | None = None) -> dict[str, Annotation]:
    """Rows ``frame, id, bb_left, bb_top, bb_width, bb_height, conf, …``: frames and pixels count from 1.

    Rows whose ``conf`` is 0 are to be ignored, by the definition of the format; they are left out and counted. The
    first line may name the columns; a column ``clip`` then names the clip of each row. ``seqinfo.ini`` beside the
    folder ``gt`` gives the clip's frame size and number of frames.
    """
    whole = path.absolute()
    named = id or (whole.parents[1].name if whole.parts[-2:] == ("gt", "gt.txt") else path.stem)
    rows: dict[str, list[list[float]]] = {}
    for line, clip, values in _mot_rows(path, named):
        if not (values[0].is_integer() and 1 <= values[0] <= MAX_FRAMES):
            raise AnnotationError(f"annotations {str(path)!r}: line {line}: frame {values[0]:g}; frames count from 1")
        rows.setdefault(clip, []).append(values)
    frames, size = _seqinfo(whole)
    found = {}
    for clip, own in rows.items():
        table = np.array(own, np.float64)
        used = table[:, 5] != 0
        left_out = int((~used).sum())
        notes = (f"{left_out} of {len(own)} boxes marked as ignored (conf 0) left out",) if left_out else ()
        xywh = table[used, 1:5] - [1, 1, 0, 0]
        found[clip] = Annotation(table[used, 0].astype(np.int64) - 1, xywh, frames, size, notes)
    return found


def _mot_rows(path: Path, named: str) -> Iterator[tuple[int, str, list[float]]]:
    """Each non-empty row: its line number, its clip, and its frame, left, top, width, height and conf."""
    columns: Sequence[str] = MOT_COLUMNS
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, line in enumerate(csv.reader(file), start=1):
                cells = [cell.strip() for cell in line]
                if not any(cells):
                    continue
                if number == 1 and not _is_number(cells[0]):
                    columns = [cell.lower() for cell in cells]
                    if missing := [name for name in MOT_COLUMNS[:6] if name not in columns and name != "id"]:
                        raise AnnotationError(f"annotations {str(path)!r}: line 1: no column {', '.join(missing)}")
                    continue
                row = dict(zip(columns, cells, strict=False))
                try:
                    values = [float(row[name]) for name in MOT_COLUMNS if name not in ("id", "conf")]
                    yield number, row.get("clip", named), [*values, float(row.get("conf") or 1)]
                except (KeyError, ValueError):
                    wanted = ", ".join(MOT_COLUMNS[:6])
                    what = f"{','.join(cells)[:60]!r} is not {wanted} as numbers"
                    raise AnnotationError(f"annotations {str(path)!r}: line {number}: {what}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise AnnotationError(f"annotations {str(path)!r}: not CSV in UTF-8 ({error})") from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _seqinfo(path: Path) -> tuple[int | None, tuple[int, int] | None]:
    """The number of frames and the frame's height and width from MOTChallenge's ``seqinfo.ini``, if it exists."""
    info = path.parent.parent / "seqinfo.ini"
    if path.parent.name != "gt" or not info.is_file():
        return None, None
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(info.read_text(encoding="utf-8-sig"), str(info))
        length, height, width = (parser.getint("Sequence", key) for key in ("seqLength", "imHeight", "imWidth"))
    except (configparser.Error, ValueError) as error:
        what = " ".join(str(error).split())
        raise AnnotationError(f"annotations {str(info)!r}: no seqLength, imHeight and imWidth ({what})") from None
    if not (0 <= length <= MAX_FRAMES and 1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise AnnotationError(f"annotations {str(info)!r}: {length} frames of {width}×{height} px are impossible")
    return length, (height, width)
