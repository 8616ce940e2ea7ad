"""A small synthetic data set in UCF-101's layout whose classes differ only in what moves (ours).

How it is made. Each class is one drawn figure: a shape with its own hue and texture. Every frame of every
clip shows one figure of *every* class, each inside a home rectangle of its own, and no two homes overlap.
Each figure has a closed path through its home. In a clip of class A the figure of A walks along its path at
a constant 1.5 to 6 px a frame; all others stand still, each at a random place of its own path. All figures
are drawn by the same code, anti-aliased, turned and sized at random and without motion blur, over a textured
still background; sensor noise and a slight flicker lie on top, so that a codec finds false vectors too. The
background belongs to the group (``gNN``) and is the same for all classes, so that it names none.

What a model of whole frames can know. Nothing: at any one time the walking figure is where a standing one
could be, so the law of a still frame is the same in all classes and the best guess is right once in
``classes`` times. Two things remain that a still picture cannot have: the codec treats moving blocks a
little differently, and whoever compares two frames of a clip sees what moves (a network that takes its
frames one by one and averages the logits does not). A training on whole frames can only learn by heart.

What a crop around the motion can know. It cuts away whatever stands outside, and what it cuts or drops was
not the actor. How much that is depends on where the homes are, which is our choice and not a finding: they
are drawn nearer to the frame's borders than uniform ones (`_towards_borders`), as a crop of 75 % of the area
can only drop what stands near a border. With four classes, 56 % of the bystanders stay whole in the best box
of 6x8 cells around the actor, so that a guess among the figures left whole is right in 43 % of the frames;
it is right in 29 % after a centre crop of the same area and in 25 % on whole frames. Twelve classes: 14, 11
and 8 %. `tests/test_synth.py` holds these figures. They are ceilings for whoever looks only at what is left;
where it stands in the crop tells a little more. So the set shows that the chain works and that a crop can
carry information; it says nothing about the size of the gain on real video, where the scene itself is a cue
that a crop may lose.
"""

from __future__ import annotations

import colorsys
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
from PIL import Image, ImageDraw

from mocrop_core.vectors import clip_rng
from pipelines.media.encoder import write_video

WIDTH, HEIGHT, FPS = 320, 240, 25
FIGURES = (
    *("Disc", "Star", "Cross", "Triangle", "Ring", "Heart"),
    *("Square", "Moon", "Arrow", "Drop", "Gear", "Bolt"),
)
"""The shapes, in the order in which classes are taken; the class of ``Disc`` is ``MovingDisc``."""
_GRAIN = 8  # sub-pixel steps and supersampling in each direction
_MARKER = "synth.json"
_LIMITS = (3, 25 * 99), (0, 2**63 - 1), (8, 100_000)  # of clips a class, of the seed, of frames


@dataclass(frozen=True, slots=True)
class Synth:
    """What `write_dataset` left on disk: where it is and how much of it there is.

    ``source`` is the folder of class folders, ``splits`` the folder of lists, ``annotations`` the JSON file
    of actor boxes; ``class_names`` are in label order; ``written`` of the ``clips`` were made by this call.
    """

    directory: Path
    source: Path
    splits: Path
    annotations: Path
    class_names: tuple[str, ...]
    clips: int
    frames: int
    written: int


@dataclass(frozen=True, slots=True)
class Figure:
    """One drawn figure and the centre of it in every frame.

    ``kind`` indexes `FIGURES`; ``radius`` in px; ``angle`` in degrees; ``hue`` 0..1; ``centres`` is (frames,
    2) float64 x, y in px, on a grid of 1/8 px, all equal where the figure stands still.
    """

    kind: int
    radius: float
    angle: float
    hue: float
    centres: np.ndarray


@dataclass(frozen=True, slots=True)
class Scene:
    """One clip before it is drawn: its figures in the order of `FIGURES`, and which of them is the actor."""

    figures: tuple[Figure, ...]
    actor: int


def class_names(classes: int) -> tuple[str, ...]:
    """The names of the first ``classes`` figures' classes in label order, which is the alphabet's.

    Raises ValueError outside 2..12.
    """
    if not 2 <= classes <= len(FIGURES):
        raise ValueError(f"classes is {classes}, expected 2 to {len(FIGURES)}")
    return tuple(sorted(f"Moving{figure}" for figure in FIGURES[:classes]))


def groups_of(clips_per_class: int) -> tuple[int, ...]:
    """The group (from 1) of each clip of a class: about two clips a group, 3 to 25 groups, in order."""
    groups = min(25, max(3, clips_per_class // 2))
    return tuple(1 + clip * groups // clips_per_class for clip in range(clips_per_class))


def tested_groups(groups: int, split: int) -> range:
    """The groups that split 1, 2 or 3 tests: as in UCF-101 about 7 of 25, in order, none twice."""
    size = min(groups // 3, max(1, round(groups * 7 / 25)))
    return range(1 + (split - 1) * size, 1 + split * size)


def clip_ids(names: tuple[str, ...], clips_per_class: int) -> tuple[tuple[str, int], ...]:
    """``(id, group)`` of every clip, by class and then by name; an id is ``Class/v_Class_gNN_cNN``."""
    groups = groups_of(clips_per_class)
    return tuple(
        (f"{name}/v_{name}_g{group:02d}_c{1 + k - groups.index(group):02d}", group)
        for name in names
        for k, group in enumerate(groups)
    )


def write_dataset(
    directory: Path,
    *,
    classes: int = 4,
    clips_per_class: int = 12,
    seed: int = 0,
    frames: int = 50,
    on_clip: Callable[[str, int, int], None] | None = None,
) -> Synth:
    """Write the data set described above into ``directory`` and say what is there.

    ``classes`` 2..12, ``clips_per_class`` 3..2475 (each split tests at least one group of each class),
    ``seed`` >= 0, ``frames`` 8..100000 in every clip; ``on_clip(id, done, total)`` is called after each clip.
    Equal arguments give equal pixels. A folder that this function left unfinished with the same arguments is
    finished, a finished one is left as it is; any other folder with something in it raises FileExistsError. A
    number out of range raises ValueError, before anything is written.
    """
    names = class_names(classes)
    asked = {"clips_per_class": clips_per_class, "seed": seed, "frames": frames}
    for (name, value), (low, high) in zip(asked.items(), _LIMITS, strict=True):
        if not low <= value <= high:
            raise ValueError(f"{name} is {value}, expected {low} to {high}")
    directory = Path(directory)
    _claim(directory, {"format": 1, "classes": classes, **asked})
    clips = clip_ids(names, clips_per_class)
    source, annotations = directory / "UCF-101", directory / "annotations" / "actors.json"
    splits = directory / "ucfTrainTestlist"
    _write_lists(splits, names, clips)
    actors, written = {}, 0
    for done, (clip_id, group) in enumerate(clips, start=1):
        scene = compose(seed, clip_id, classes, frames)
        tube = {"start_frame": 0, "end_frame": frames, "boxes_xywh": actor_boxes(scene)}
        actors[clip_id] = {"num_frames": frames, "tubes": [tube]}
        target = source / f"{clip_id}.avi"
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            write_video(target, draw(scene, seed, clip_id, group), FPS, codec="mpeg4")
            written += 1
        if on_clip is not None:
            on_clip(clip_id, done, len(clips))
    _write_text(annotations, json.dumps(actors, separators=(",", ":")))
    return Synth(directory, source, splits, annotations, names, len(clips), frames, written)


def compose(seed: int, clip_id: str, classes: int, frames: int) -> Scene:
    """The scene of one clip: a home, a path and a look for each figure, from the seed and the clip's id."""
    rng = clip_rng(seed, clip_id, "scene")
    actor = FIGURES.index(clip_id.split("/")[0].removeprefix("Moving"))
    radius = 20.0 * min(1.0, math.sqrt(6 / classes))
    radii = radius * rng.uniform(0.85, 1.15, classes)
    homes = _homes(rng, classes, least=2.3 * radius + 12)
    figures = []
    for kind in range(classes):
        speed = rng.uniform(1.5, 6.0)
        walked = (speed if kind == actor else 0.0) * np.arange(frames)
        centres = _walk(rng, homes[kind], margin=radii[kind] + 1, walked=walked)
        angle, hue = rng.uniform(-25, 25), _hue(kind) + rng.uniform(-0.012, 0.012)
        figures.append(Figure(kind, float(radii[kind]), angle, hue % 1.0, centres))
    return Scene(tuple(figures), actor)


def draw(scene: Scene, seed: int, clip_id: str, group: int) -> Iterator[np.ndarray]:
    """The clip's frames, (240, 320, 3) uint8 RGB, in order."""
    still = _place(clip_rng(seed, f"g{group:02d}", "place"))
    for kind, figure in enumerate(scene.figures):
        if kind != scene.actor:
            _paste(still, _sprite(figure), figure.centres[0])
    actor = scene.figures[scene.actor]
    sprite = _sprite(actor)
    rng = clip_rng(seed, clip_id, "sensor")
    # a standard normal quantile for each byte: noise as fast as random bytes, and the same on every machine
    noise = np.array([round(2.2 * NormalDist().inv_cdf((k + 0.5) / 256)) for k in range(256)], dtype=np.int16)
    for centre in actor.centres:
        frame = still.copy()
        _paste(frame, sprite, centre)
        levels = np.arange(256) * (1 + 0.008 * (2 * rng.random() - 1))
        grain = noise[np.frombuffer(rng.bytes(WIDTH * HEIGHT), dtype=np.uint8)].reshape(HEIGHT, WIDTH, 1)
        noisy = np.rint(levels).astype(np.int16)[frame] + grain
        yield np.clip(noisy, 0, 255).astype(np.uint8)


def actor_boxes(scene: Scene) -> list[list[int]]:
    """The actor's x, y, width and height in every frame: the smallest whole pixels that hold all of it."""
    actor = scene.figures[scene.actor]
    sprite = _sprite(actor)
    drawn = np.array(sprite.getchannel("A").getbbox()).reshape(2, 2) - sprite.width // 2
    boxes = []
    for centre in np.rint(actor.centres * _GRAIN).astype(int):
        (x0, y0), (x1, y1) = ((centre + drawn + [[0, 0], [_GRAIN - 1] * 2]) // _GRAIN).tolist()
        boxes.append([x0, y0, x1 - x0, y1 - y0])
    return boxes


def _homes(rng: np.random.Generator, count: int, least: float) -> np.ndarray:
    """Home rectangles x, y, width, height (count, 4) in px: apart, 2 px off the frame's edge, in no order."""
    for _ in range(10_000):
        homes: list[tuple[float, float, float, float]] = []
        for _ in range(30 * count):
            area = 0.4 * WIDTH * HEIGHT / count * rng.uniform(0.6, 1.4)
            aspect = 1.15 * math.exp(rng.uniform(-0.6, 0.6))
            w = min(200.0, max(least, math.sqrt(area * aspect)))
            h = min(170.0, max(least, math.sqrt(area / aspect)))
            x = 2 + (WIDTH - 4 - w) * _towards_borders(rng)
            y = 2 + (HEIGHT - 4 - h) * _towards_borders(rng)
            if all(x + w < u or u + p < x or y + h < v or v + q < y for u, v, p, q in homes):
                homes.append((x, y, w, h))
            if len(homes) == count:
                shuffled: np.ndarray = rng.permutation(np.array(homes))
                return shuffled
    raise RuntimeError(f"found no place for {count} figures")


def _towards_borders(rng: np.random.Generator) -> float:
    """A number in 0..1, mostly near 0 or near 1: on each side of the middle a uniform one's cube root."""
    side = 2 * rng.random() - 1
    return (1 + math.copysign(abs(side) ** (1 / 3), side)) / 2


def _walk(rng: np.random.Generator, home: np.ndarray, margin: float, walked: np.ndarray) -> np.ndarray:
    """Centres (frames, 2) in px on the 1/8 px grid: from anywhere on a random closed path."""
    x, y, width, height = home
    turn = np.linspace(0, 2 * np.pi, 361)
    across, down = (
        (np.cos(turn), np.sin(turn)),
        (np.sin(turn), np.sin(2 * turn)),
        (np.cos(turn), 0.8 * np.cos(turn)),
        (np.cos(turn), -0.8 * np.cos(turn)),
        (np.cos(turn), 0.3 * np.sin(2 * turn)),
        (0.3 * np.sin(2 * turn), np.cos(turn)),
    )[rng.integers(6)]
    path_x, path_y = across * (width / 2 - margin), down * (height / 2 - margin)
    length = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(path_x), np.diff(path_y)))])
    at = (rng.uniform(0, length[-1]) + walked) % length[-1]
    centres = np.stack([np.interp(at, length, path_x), np.interp(at, length, path_y)], axis=1)
    on_grid: np.ndarray = np.rint((centres + np.array([x + width / 2, y + height / 2])) * _GRAIN) / _GRAIN
    return on_grid


def _hue(kind: int) -> float:
    """The hue of a figure: sixteenths in bit-reversed order, so that the first few are far apart."""
    return int(f"{kind:04b}"[::-1], 2) / 16


def _ring(count: int, *radii: float, start: float = -0.25) -> np.ndarray:
    """Corners (count, 2) around the origin, from ``start`` turns on, y down, with the radii in rotation."""
    angles = 2 * np.pi * (start + np.arange(count) / count)
    corners: np.ndarray = np.resize(radii, count)[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return corners


def _outline(kind: int) -> tuple[np.ndarray, ...]:
    """A figure's polygons (corners, 2) in the unit circle, y down: the first filled, the second cut out."""
    disc = _ring(72, 1.0)
    x, y = disc.T
    arm = np.array([[0.33, -0.95], [0.33, -0.33], [0.95, -0.33]])
    quarter = np.array([[0, 1], [-1, 0]])
    arrow = [(0, -1), (0.8, -0.1), (0.32, -0.1), (0.32, 0.9), (-0.32, 0.9), (-0.32, -0.1), (-0.8, -0.1)]
    bolt = [(0.25, -1), (-0.65, 0.15), (-0.1, 0.15), (-0.3, 1), (0.65, -0.25), (0.08, -0.25), (0.6, -0.9)]
    return (
        (disc,),
        (_ring(10, 1.0, 0.42),),
        (np.concatenate([arm @ np.linalg.matrix_power(quarter, k) for k in range(4)]),),
        (_ring(3, 1.0),),
        (disc, 0.52 * disc),
        (np.stack([0.95 * x, 0.85 * y - 0.6 * np.sqrt(np.abs(x)) + 0.3], axis=1),),
        (_ring(4, 1.0, start=-0.125),),
        (disc, 0.75 * disc + [0.5, 0]),
        (np.array(arrow),),
        (np.stack([0.6 * x * (1 + y), y], axis=1),),
        (_ring(32, 1.0, 1.0, 0.68, 0.68),),
        (np.array(bolt),),
    )[kind]


def _sprite(figure: Figure) -> Image.Image:
    """The figure at eight times its size, RGBA, centred, with 2 px or more of nothing around it."""
    side = (2 * math.ceil(figure.radius) + 4) * _GRAIN
    middle, scale = side / 2, figure.radius * _GRAIN
    cos, sin = math.cos(math.radians(figure.angle)), math.sin(math.radians(figure.angle))
    mask = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(mask)
    turn = scale * np.array([[cos, sin], [-sin, cos]])
    for hole, outline in enumerate(_outline(figure.kind)):
        pen.polygon((outline @ turn + middle).ravel().tolist(), fill=0 if hole else 255)
    step = (np.arange(side, dtype=np.float32) + np.float32(0.5 - middle)) / np.float32(scale)
    u, v = step[None] * cos + step[:, None] * sin, step[:, None] * cos - step[None] * sin
    dark = (
        lambda: u % 0.5 < 0.2,
        lambda: (u % 0.7 < 0.35) ^ (v % 0.7 < 0.35),
        lambda: np.hypot(u, v) % 0.4 < 0.16,
        lambda: (u % 0.45 - 0.22) ** 2 + (v % 0.45 - 0.22) ** 2 < 0.02,
    )[(figure.kind + figure.kind // 4) % 4]()
    tones = [colorsys.hsv_to_rgb(figure.hue, *tone) for tone in ((0.72, 1.0), (0.95, 0.55))]
    palette = np.rint(255 * np.array(tones)).astype(np.uint8)
    sprite = Image.fromarray(palette[dark.astype(np.uint8)])
    sprite.putalpha(mask)
    return sprite


def _paste(canvas: np.ndarray, sprite: Image.Image, centre: np.ndarray) -> None:
    """Draw a sprite into the canvas (h, w, 3) uint8, its middle at ``centre`` (x, y px), to 1/8 px."""
    x, y = (round(float(c) * _GRAIN) - sprite.width // 2 for c in centre)
    (col, off_x), (row, off_y) = divmod(x, _GRAIN), divmod(y, _GRAIN)
    side = sprite.width // _GRAIN - 1
    left, top = _GRAIN - off_x, _GRAIN - off_y
    drawn = np.asarray(sprite.reduce(_GRAIN, (left, top, left + side * _GRAIN, top + side * _GRAIN)))
    alpha = drawn[..., 3:].astype(np.float32) / 255
    under = canvas[row + 1 : row + 1 + side, col + 1 : col + 1 + side]
    under[:] = np.rint(under + alpha * (drawn[..., :3] - under.astype(np.float32))).astype(np.uint8)


def _place(rng: np.random.Generator) -> np.ndarray:
    """A still textured background (240, 320, 3) uint8: clouds of four grains on a floor and a wall."""
    texture = np.zeros((HEIGHT, WIDTH), dtype=np.float32)
    for cell, weight in ((64, 26.0), (24, 16.0), (8, 12.0), (2, 9.0)):
        coarse = rng.random((HEIGHT // cell + 2, WIDTH // cell + 2), dtype=np.float32) - np.float32(0.5)
        clouds = Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        texture += weight * 2 * np.asarray(clouds)
    horizon = int(HEIGHT * rng.uniform(0.3, 0.7))
    hues = rng.random(2)
    place = np.empty((HEIGHT, WIDTH, 3), dtype=np.float32)
    for rows, hue, value in ((slice(0, horizon), hues[0], 0.58), (slice(horizon, None), hues[1], 0.42)):
        place[rows] = 255 * np.array(colorsys.hsv_to_rgb(hue, 0.2, value), dtype=np.float32)
    place += texture[..., None]
    return np.clip(np.rint(place), 16, 235).astype(np.uint8)


def _claim(directory: Path, made_by: dict[str, int]) -> None:
    """Make ``directory`` ours by a marker with the arguments, or raise FileExistsError if it is not."""
    marker = directory / _MARKER
    if directory.is_file() or (directory.is_dir() and any(directory.iterdir())):
        try:
            found = dict(json.loads(marker.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            reason = "is not empty and not from `mocrop synth`"
            raise FileExistsError(f"{directory} {reason}: take a new folder") from None
        if found != made_by:
            differ = ", ".join(f"{k} {found.get(k)} not {v}" for k, v in made_by.items() if found.get(k) != v)
            raise FileExistsError(f"{directory} holds another synthetic data set ({differ}): take a new folder")
    _write_text(marker, json.dumps(made_by))


def _write_lists(folder: Path, names: tuple[str, ...], clips: tuple[tuple[str, int], ...]) -> None:
    """``classInd.txt`` and the lists of three splits, with CRLF line ends like the official ones."""
    label = {name: k for k, name in enumerate(names, start=1)}
    groups = max(group for _, group in clips)
    lists = {"classInd.txt": [f"{k} {name}" for name, k in label.items()]}
    for split in (1, 2, 3):
        tested = tested_groups(groups, split)
        lists[f"trainlist{split:02d}.txt"] = [
            f"{clip_id}.avi {label[clip_id.split('/')[0]]}" for clip_id, group in clips if group not in tested
        ]
        lists[f"testlist{split:02d}.txt"] = [f"{clip_id}.avi" for clip_id, group in clips if group in tested]
    for name, lines in lists.items():
        _write_text(folder / name, "".join(f"{line}\r\n" for line in lines))


def _write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(text.encode())
    part.replace(path)
