"""Recipes: what to build from a data set, as TOML validated by pydantic. Unknown keys are errors."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from data_specs.locations import shown
from data_specs.schema import MAX_SEGMENTS
from mocrop_core.actor import ACTOR, ActorMethod
from mocrop_core.method import PRESETS, Method
from mocrop_core.search import candidate_sizes
from mocrop_core.vectors import clip_rng

Preset = Literal["medium", "ultrafast", "superfast", "veryfast", "faster", "fast", "slow", "slower", "veryslow"]


MAX_RECTANGLES = 6_000_000
"""Maximum number of rectangles of a search: each takes about 100 bytes of a worker's 2 GiB. All rectangles of
60 × 80 cells are fewer."""


MAX_BYTES, MAX_LINE = 1 << 16, 1000
"""Maximum bytes of a recipe and characters of a line: the parser's memory grows with the square of a key's length."""

MAX_SHARD_CLIPS = 1024
AUTO_SHARDS, AUTO_SHARD_CLIPS = 64, 64  # shard_clips = "auto": at least so many shards, at most so many clips in each
SHOWN = 10  # errors shown in a message
MAX_VALUES, MAX_DEPTH, MAX_TEXT = 5000, 10, 1000
"""Maximum number of values in a recipe, nesting depth, and characters of a string."""


class RecipeError(ValueError):
    """The recipe cannot be used; the message is one line with the key, its value and what would be right."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Encode(_Part):
    """H.264 settings of the transcode stage; the rest is fixed: no B-frames, one reference frame, no scene cuts.

    GOP 12 is what CoViAR and its successors use; preset and CRF were never published and are x264's own defaults.
    """

    preset: Preset = Field("medium", description="x264 preset: slower ones take more CPU time and give smaller files")
    crf: int = Field(23, ge=0, le=51, description="x264 constant rate factor, from 0 (lossless) to 51 (worst)")
    gop: int = Field(12, ge=1, le=600, description="distance between key frames, in frames")
    deinterlace: bool = Field(True, description="rebuild frames marked as interlaced from their first field")


class FrameCodec(_Part):
    """How cached frames are stored. Any Zarr v3 reader opens all but ``jpeg``, a lossy codec of this package."""

    name: Literal["raw", "lz4", "zstd", "jpeg"] = Field("zstd", description="codec of one frame")
    quality: int | None = Field(None, ge=1, le=100, description="JPEG quality, 95 by default; jpeg only")

    @model_validator(mode="after")
    def _quality_is_for_jpeg(self) -> FrameCodec:
        if self.name != "jpeg" and self.quality is not None:
            raise ValueError(f"quality {self.quality} goes with the codec jpeg, not {self.name}")
        return self


class Frames(_Part):
    """Which frames of a clip are cached, and how."""

    choose: Literal["key", "uniform"] = Field("key", description="key frames (as in the paper), or any frames")
    slots: int = Field(16, ge=1, le=1024, description="maximum number of frames per clip, evenly spaced")
    size: int = Field(256, ge=8, le=4096, description="height and width that crops are resized to, px")
    codec: FrameCodec = Field(default_factory=FrameCodec)


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", description="folder name of the view")]
Ratio = Annotated[float, Field(gt=0, le=1, description="area of the box as a share of the frame")]
Side = Annotated[int, Field(ge=1, le=1000)]
Grid = Annotated[
    tuple[Annotated[int, Field(ge=1, le=240)], Annotated[int, Field(ge=1, le=240)]],
    Field(description="rows and columns of the density map"),
]


class FullView(_Part):
    """The whole frame: the baseline."""

    kind: Literal["full"] = "full"
    name: Name = "full"


class FixedView(_Part):
    """A box with the frame's aspect ratio and a given share of its area, centred or random: a control."""

    kind: Literal["centre", "random"]
    name: Name
    crop_ratio: Ratio = 0.75

    @model_validator(mode="before")
    @classmethod
    def _named_by_kind(cls, values: Any) -> Any:
        return {"name": values["kind"], **values} if isinstance(values, Mapping) and "kind" in values else values


class MotionView(_Part):
    """The box that contains the motion. Omitted keys come from the preset; see mocrop_core.method."""

    kind: Literal["motion"] = "motion"
    name: Name = "mocrop"
    preset: Literal["paper-v1", "paper-v2", "reference", "actor"] = "paper-v1"
    grid: Grid | None = None
    crop_ratio: Ratio | None = None
    segments: int = Field(1, ge=1, le=MAX_SEGMENTS, description="parts of the clip, each with its own box; actor only")
    aspect: Literal["frame", "square"] | tuple[Side, Side] | None = Field(
        None, description='aspect ratio of the box: "frame", "square" or [16, 9], free by default; actor only'
    )
    overrides: dict[str, Any] = Field(
        default_factory=dict,
        description="other parameters, named as in mocrop_core.Method or mocrop_core.ActorMethod",
    )

    @model_validator(mode="after")
    def _method_is_valid(self) -> MotionView:
        if twice := [key for key in ("grid", "crop_ratio", "segments", "aspect") if key in self.overrides]:
            raise ValueError(f"overrides: {' and '.join(twice)}: set this in the view itself, not in overrides")
        if self.preset == "actor" and self.grid is not None:
            raise ValueError(f"grid {list(self.grid)}: the preset actor chooses its own cells; omit this key")
        if self.preset != "actor" and (self.segments != 1 or self.aspect is not None):
            key = "segments" if self.segments != 1 else "aspect"
            raise ValueError(f"{key} {getattr(self, key)}: for the preset actor only, not {self.preset}")
        method = self.method()
        if isinstance(method, ActorMethod):
            return self
        rectangles = num_rectangles(method)
        if rectangles > MAX_RECTANGLES:
            raise ValueError(
                f"grid {list(method.grid)} with crop_ratio {method.crop_ratio:g} and tolerance {method.tolerance:g}: "
                f"{rectangles:,} rectangles to try, more than {MAX_RECTANGLES:,}; give a coarser grid"
            )
        return self

    def method(self) -> Method | ActorMethod:
        """The preset with this view's values."""
        preset: Method | ActorMethod = ACTOR if self.preset == "actor" else PRESETS[self.preset]
        known = {field.name for field in dataclasses.fields(preset)}
        if unknown := sorted(set(self.overrides) - known):
            raise ValueError(f"overrides: unknown {', '.join(unknown)}; known: {', '.join(sorted(known))}")
        own: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in self.overrides.items()
        }
        if self.grid is not None:
            own["grid"] = self.grid
        if self.crop_ratio is not None:
            own["crop_ratio"] = self.crop_ratio
        if self.preset == "actor":
            own |= {"segments": self.segments, "aspect": self.aspect}
        return dataclasses.replace(preset, **own)


def num_rectangles(method: Method) -> int:
    """The number of rectangles that a method's search tries."""
    (rows, columns), sizes = method.grid, candidate_sizes(method.grid, method.crop_ratio, method.tolerance)
    return sum((rows - height + 1) * (columns - width + 1) for height, width in sizes)


View = Annotated[FullView | FixedView | MotionView, Field(discriminator="kind")]


def density_grid(view: FullView | FixedView | MotionView) -> tuple[int, int] | None:
    """Rows and columns of a view's stored density; None if the view uses no motion."""
    return view.method().grid if isinstance(view, MotionView) else None


def moves(view: FullView | FixedView | MotionView) -> bool:
    """Whether a view's box moves through the clip."""
    return isinstance(view, MotionView) and view.segments > 1


def view_params(view: FullView | FixedView | MotionView) -> dict[str, Any]:
    """All parameters that determine a view's boxes, JSON-like, with presets resolved, as recorded in ``views/<view>``.

    They include the view's name only for ``random`` views: see `view_rng`.
    """
    if isinstance(view, MotionView):
        method = view.method()
        which = {"method": "actor"} if isinstance(method, ActorMethod) else {}
        return {"kind": "motion", **which, **json_like(dataclasses.asdict(method))}
    return view.model_dump(mode="json", exclude=set() if view.kind == "random" else {"name"})


def view_rng(view: FullView | FixedView | MotionView, seed: int, id: str) -> np.random.Generator:
    """The random stream of a clip in a view, from the recipe's seed and the clip's id; ours.

    Each ``random`` view has its own stream, which depends on its name, so that two such views are independent
    controls. All motion views share one: a method gives the same box whatever its view is called, and without a store.
    """
    return clip_rng(seed, id, view.name if view.kind == "random" else view.kind)


def json_like(value: Any) -> Any:
    """The value with tuples as lists, as after a round trip through JSON."""
    if isinstance(value, Mapping):
        return {key: json_like(inner) for key, inner in value.items()}
    return [json_like(inner) for inner in value] if isinstance(value, tuple | list) else value


class Recipe(_Part):
    """What to build: how clips are encoded, which frames are kept, and the views, each one way to choose the box."""

    name: str = Field("ucf101", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", description="name of the recipe")
    seed: int = Field(0, ge=0, lt=2**63, description="random seed, combined with the clip's id")
    shard_clips: Annotated[int, Field(ge=1, le=MAX_SHARD_CLIPS)] | Literal["auto"] = Field(
        "auto", description='clips per shard, the unit of work and of storage; "auto" follows the number of clips'
    )
    time_limit: float = Field(
        600.0, gt=0, le=86_400, allow_inf_nan=False, description="time limit for one clip in one stage, in seconds"
    )
    max_missing: float = Field(
        0.25, ge=0, le=1, description="largest share of missing frames; a clip that lacks more is quarantined"
    )
    transcode: Encode | Literal["keep"] = Field(
        default_factory=Encode, description='H.264 settings, or "keep" to read sources that have motion vectors'
    )
    frames: Frames = Field(default_factory=Frames)
    views: tuple[View, ...] = Field(
        (FullView(), MotionView()), min_length=1, max_length=100, description="ways to choose the box"
    )

    @model_validator(mode="before")
    @classmethod
    def _is_of_ordinary_size(cls, values: Any) -> Any:
        _check_size(values)
        return values

    @model_validator(mode="after")
    def _views_have_their_own_names(self) -> Recipe:
        names = [view.name for view in self.views]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                f"views: more than one is named {', '.join(map(repr, twice))}; give each view its own name"
            )
        return self

    def view(self, name: str) -> FullView | FixedView | MotionView:
        """The view with this name; ``KeyError`` if there is none."""
        return {view.name: view for view in self.views}[name]

    def sized_for(self, clips: int) -> Recipe:
        """This recipe with the number that ``shard_clips = "auto"`` means for a data set of ``clips`` clips."""
        if self.shard_clips != "auto":
            return self
        return self.model_copy(update={"shard_clips": automatic_shard_clips(clips)})

    @property
    def clips_per_shard(self) -> int:
        """``shard_clips`` as a number; ``ValueError`` if it is "auto", which no store's recipe is (`sized_for`)."""
        if self.shard_clips == "auto":
            raise ValueError('shard_clips is "auto": a store records the number of clips per shard')
        return self.shard_clips

    def settings(self) -> dict[str, Any]:
        """Everything but the views and the name, JSON-like: what cannot change once a store is created."""
        settings: dict[str, Any] = self.model_dump(mode="json", exclude={"views", "name", "time_limit"})
        return settings


def automatic_shard_clips(clips: int) -> int:
    """The number that ``shard_clips = "auto"`` means: the largest power of two, up to 64, that leaves 64 shards; ours.

    Fewer than 128 clips give shards of one clip, so that a dozen clips keep all cores busy; 4,096 and more give 64.
    """
    return min(AUTO_SHARD_CLIPS, 1 << max(0, (clips // AUTO_SHARDS).bit_length() - 1))


def _check_size(values: object) -> None:
    """``ValueError`` for too many, too deeply nested or too long values, before any of them is printed."""
    waiting = [(values, 0)]
    for seen, (value, depth) in enumerate(waiting):  # grows during the loop
        if seen > MAX_VALUES or depth > MAX_DEPTH:
            raise ValueError(f"more than {MAX_VALUES} values, or nested more than {MAX_DEPTH} deep")
        if isinstance(value, Mapping):
            waiting += [(part, depth + 1) for pair in value.items() for part in pair]
        elif isinstance(value, list | tuple):
            waiting += [(part, depth + 1) for part in value]
        elif isinstance(value, str) and len(value) > MAX_TEXT:
            raise ValueError(f"a string of {len(value)} characters ({value[:20]!r}…), more than {MAX_TEXT}")
        elif isinstance(value, int) and value.bit_length() > 64:
            raise ValueError(f"an integer of {value.bit_length()} bits, more than 64")


def load_recipe(recipe: str | Path) -> Recipe:
    """The built-in recipe with this name (``ucf101``, ``smoke``, ``demo``), or the recipe in this TOML file.

    Raises a one-line ``RecipeError`` if there is neither, or that lists the invalid keys.
    """
    text, where = _read(str(recipe))
    if any(len(line) > MAX_LINE for line in text.split("\n")):
        raise RecipeError(f"recipe {where}: a line has more than {MAX_LINE} characters; break it")
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or too deeply nested
        raise RecipeError(f"recipe {where}: not TOML: {_short(' '.join(str(error).split()))}") from error
    return parse_recipe(values, where)


def parse_recipe(values: object, where: str) -> Recipe:
    """The recipe in JSON-like ``values``; ``where`` names its origin in the message of a ``RecipeError``."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        causes = [_short(_one_line(cause)) for cause in _causes(error)]
        more = f"; and {len(causes) - SHOWN} more" if len(causes) > SHOWN else ""
        raise RecipeError(f"recipe {where}: {'; '.join(causes[:SHOWN])}{more}") from None


def _short(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:300]}…"


_NOT_FOR_TEXT = {("transcode",): "Encode", ("shard_clips",): "constrained-int"}
"""The branch of a key that is a text or something else, by the key's location: the one for something else."""


def _causes(error: ValidationError) -> list[Any]:
    """The errors, without those that follow from another one or from the wrong branch of a union."""
    found: list[Any] = list(error.errors())
    meant = [
        item
        for item in found
        if item["type"] != "too_short"
        and (
            (branch := _NOT_FOR_TEXT.get(item["loc"][:1])) is None
            or (branch in item["loc"]) != isinstance(item["input"], str)
        )
    ]
    return meant or found


def _one_line(error: Any) -> str:
    unions = {"Encode", "literal['keep']", "constrained-int", "literal['auto']", "full", "centre", "random", "motion"}
    key = ".".join(str(part) for part in error["loc"] if part not in unions) or "recipe"
    if error["type"] == "extra_forbidden":
        return f"unknown key {key!r}"
    if error["type"].startswith("union_tag"):
        return f"{key}: kind {error['input'].get('kind')!r}; give full, centre, random or motion"
    message = error["msg"].removeprefix("Value error, ")
    return message if error["type"] == "value_error" else f"{key} = {error['input']!r}: {message}"


def builtin_recipes() -> list[str]:
    """The names of the built-in recipes."""
    return sorted(file.name.removesuffix(".toml") for file in _folder().iterdir() if file.name.endswith(".toml"))


def _folder() -> Any:
    return resources.files("data_specs")


def _read(recipe: str) -> tuple[str, str]:
    if recipe in builtin_recipes():
        return (_folder() / f"{recipe}.toml").read_text(encoding="utf-8"), recipe
    name = shown(recipe)
    if "\0" in recipe:
        raise RecipeError(f"recipe {name!r}: not a valid file name")
    try:
        with Path(recipe).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise RecipeError(f"recipe {name!r}: more than {MAX_BYTES} bytes; give a TOML file that is a recipe")
        return content.decode("utf-8-sig"), repr(name)  # some editors put a byte-order mark first
    except OSError as error:
        ours = ", ".join(builtin_recipes())
        raise RecipeError(f"recipe {name!r}: {error.strerror}; give a TOML file or one of: {ours}") from None
    except UnicodeDecodeError:
        raise RecipeError(f"recipe {name!r}: not a text file in UTF-8") from None
