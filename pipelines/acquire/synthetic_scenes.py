"""Drawing synthetic clips: figures over a textured background, seen by a still or a moving camera."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from PIL import Image, ImageDraw

from mocrop_core.vectors import clip_rng

WIDTH, HEIGHT, FPS = 320, 240, 25
FIGURES = (
    *("Disc", "Star", "Cross", "Triangle", "Ring", "Heart"),
    *("Square", "Moon", "Arrow", "Drop", "Gear", "Bolt"),
)
"""The shapes in the order in which classes use them; the class of ``Disc`` is ``MovingDisc``."""
SWAY = np.array([14, 10])
"""How far a moving camera goes from its place across and down, px."""
_GRAIN = 8  # sub-pixel steps and supersampling in each direction


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure and its centre in every frame.

    ``kind`` indexes `FIGURES`; ``radius`` in px; ``angle`` in degrees; ``hue`` 0..1; ``centres`` is (frames, 2)
    float64 x, y in px, on a grid of 1/8 px, all equal if the figure stands still. They are places in the scene, which
    are those in the frame while the camera is at its place.
    """

    kind: int
    radius: float
    angle: float
    hue: float
    centres: np.ndarray


@dataclass(frozen=True, slots=True)
class Scene:
    """Description of a clip: its figures in the order of `FIGURES`, the index of the actor, and the camera's path.

    ``camera`` is (frames, 2) int64 x, y in px: the place in the scene of the frame's top left corner, at most `SWAY`
    away from 0, 0.
    """

    figures: tuple[Figure, ...]
    actor: int
    camera: np.ndarray


def compose(seed: int, clip_id: str, classes: int, frames: int, *, moving_camera: bool = False) -> Scene:
    """Compose the scene of a clip, with home, path and appearance of each figure, from the seed and the clip's id.

    With ``moving_camera`` the camera sways at about 1.5 to 4 px per frame, in whole pixels, and homes keep so far from
    the border that all figures stay in the frame.
    """
    rng = clip_rng(seed, clip_id, "scene")
    actor = FIGURES.index(clip_id.split("/")[0].removeprefix("Moving"))
    radius = 20.0 * min(1.0, math.sqrt(6 / classes))
    radii = radius * rng.uniform(0.85, 1.15, classes)
    homes = _homes(rng, classes, least=2.3 * radius + 12, border=2 + SWAY * moving_camera)
    figures = []
    for kind in range(classes):
        speed = rng.uniform(1.5, 6.0)
        walked = (speed if kind == actor else 0.0) * np.arange(frames)
        centres = _walk(rng, homes[kind], margin=radii[kind] + 1, walked=walked)
        angle, hue = rng.uniform(-25, 25), _hue(kind) + rng.uniform(-0.012, 0.012)
        figures.append(Figure(kind, float(radii[kind]), angle, hue % 1.0, centres))
    camera = _sway(clip_rng(seed, clip_id, "camera"), frames) if moving_camera else np.zeros((frames, 2), np.int64)
    return Scene(tuple(figures), actor, camera)


def draw(scene: Scene, seed: int, clip_id: str, group: int) -> Iterator[np.ndarray]:
    """Yield the clip's frames in order, each (240, 320, 3) uint8 RGB."""
    margin = SWAY * bool(scene.camera.any())
    still = _place(clip_rng(seed, f"g{group:02d}", "place"), *(margin * 2 + [WIDTH, HEIGHT]).tolist())
    for kind, figure in enumerate(scene.figures):
        if kind != scene.actor:
            _paste(still, _sprite(figure), figure.centres[0] + margin)
    actor = scene.figures[scene.actor]
    sprite = _sprite(actor)
    rng = clip_rng(seed, clip_id, "sensor")
    # a quantile of the normal distribution for each byte: fast noise that is the same on every machine
    noise = np.array([round(2.2 * NormalDist().inv_cdf((k + 0.5) / 256)) for k in range(256)], dtype=np.int16)
    for centre, camera in zip(actor.centres, scene.camera, strict=True):
        left, top = (margin + camera).tolist()
        frame = still[top : top + HEIGHT, left : left + WIDTH].copy()
        _paste(frame, sprite, centre - camera)
        levels = np.arange(256) * (1 + 0.008 * (2 * rng.random() - 1))
        grain = noise[np.frombuffer(rng.bytes(WIDTH * HEIGHT), dtype=np.uint8)].reshape(HEIGHT, WIDTH, 1)
        noisy = np.rint(levels).astype(np.int16)[frame] + grain
        yield np.clip(noisy, 0, 255).astype(np.uint8)


def actor_boxes(scene: Scene) -> list[list[int]]:
    """The actor's x, y, width and height in px in every frame: its smallest bounding box of whole pixels."""
    actor = scene.figures[scene.actor]
    sprite = _sprite(actor)
    drawn = np.array(sprite.getchannel("A").getbbox()).reshape(2, 2) - sprite.width // 2
    boxes = []
    for centre in np.rint((actor.centres - scene.camera) * _GRAIN).astype(int):
        (x0, y0), (x1, y1) = ((centre + drawn + [[0, 0], [_GRAIN - 1] * 2]) // _GRAIN).tolist()
        boxes.append([x0, y0, x1 - x0, y1 - y0])
    return boxes


def _homes(rng: np.random.Generator, count: int, least: float, border: np.ndarray) -> np.ndarray:
    """Home rectangles x, y, width, height (count, 4) in px: disjoint, in random order.

    ``border`` is their distance from the frame's edges across and down, px.
    """
    across, down = border.tolist()
    for _ in range(10_000):
        homes: list[tuple[float, float, float, float]] = []
        for _ in range(30 * count):
            area = 0.4 * WIDTH * HEIGHT / count * rng.uniform(0.6, 1.4)
            aspect = 1.15 * math.exp(rng.uniform(-0.6, 0.6))
            w = min(200.0, max(least, math.sqrt(area * aspect)))
            h = min(170.0, max(least, math.sqrt(area / aspect)))
            x = across + (WIDTH - 2 * across - w) * _towards_borders(rng)
            y = down + (HEIGHT - 2 * down - h) * _towards_borders(rng)
            if all(x + w < u or u + p < x or y + h < v or v + q < y for u, v, p, q in homes):
                homes.append((x, y, w, h))
            if len(homes) == count:
                shuffled: np.ndarray = rng.permutation(np.array(homes))
                return shuffled
    raise RuntimeError(f"found no place for {count} figures")


def _towards_borders(rng: np.random.Generator) -> float:
    """A random number in 0..1, mostly near 0 or 1: the cube root of a uniform number, on either side of the middle."""
    side = 2 * rng.random() - 1
    return (1 + math.copysign(abs(side) ** (1 / 3), side)) / 2


def _walk(rng: np.random.Generator, home: np.ndarray, margin: float, walked: np.ndarray) -> np.ndarray:
    """Centres (frames, 2) in px on the 1/8 px grid, along a random closed path from a random start."""
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


def _sway(rng: np.random.Generator, frames: int) -> np.ndarray:
    """A camera's path (frames, 2) in whole px: on an ellipse of the radii `SWAY`, from a random start, either way."""
    speed, start = rng.uniform(1.5, 4.0), rng.uniform(0, 2 * np.pi)
    turn = start + rng.choice([-1, 1]) * speed / SWAY.mean() * np.arange(frames)
    path: np.ndarray = np.rint(SWAY * np.stack([np.cos(turn), np.sin(turn)], axis=1)).astype(np.int64)
    return path


def _hue(kind: int) -> float:
    """The hue of a figure: sixteenths in bit-reversed order, so that the first few differ strongly."""
    return int(f"{kind:04b}"[::-1], 2) / 16


def _ring(count: int, *radii: float, start: float = -0.25) -> np.ndarray:
    """Corners (count, 2) around the origin, y down, from angle ``start`` (in turns), with alternating ``radii``."""
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
    """The figure as RGBA at eight times its size, centred, with a transparent margin of at least 2 px."""
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
    """Draw a sprite into the canvas (h, w, 3) uint8, centred at ``centre`` (x, y in px, to 1/8 px)."""
    x, y = (round(float(c) * _GRAIN) - sprite.width // 2 for c in centre)
    (col, off_x), (row, off_y) = divmod(x, _GRAIN), divmod(y, _GRAIN)
    side = sprite.width // _GRAIN - 1
    left, top = _GRAIN - off_x, _GRAIN - off_y
    drawn = np.asarray(sprite.reduce(_GRAIN, (left, top, left + side * _GRAIN, top + side * _GRAIN)))
    alpha = drawn[..., 3:].astype(np.float32) / 255
    under = canvas[row + 1 : row + 1 + side, col + 1 : col + 1 + side]
    under[:] = np.rint(under + alpha * (drawn[..., :3] - under.astype(np.float32))).astype(np.uint8)


def _place(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """A still textured background (height, width, 3) uint8: noise of four scales on a floor and a wall."""
    texture = np.zeros((height, width), dtype=np.float32)
    for cell, weight in ((64, 26.0), (24, 16.0), (8, 12.0), (2, 9.0)):
        coarse = rng.random((height // cell + 2, width // cell + 2), dtype=np.float32) - np.float32(0.5)
        clouds = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        texture += weight * 2 * np.asarray(clouds)
    horizon = int(height * rng.uniform(0.3, 0.7))
    hues = rng.random(2)
    place = np.empty((height, width, 3), dtype=np.float32)
    for rows, hue, value in ((slice(0, horizon), hues[0], 0.58), (slice(horizon, None), hues[1], 0.42)):
        place[rows] = 255 * np.array(colorsys.hsv_to_rgb(hue, 0.2, value), dtype=np.float32)
    place += texture[..., None]
    return np.clip(np.rint(place), 16, 235).astype(np.uint8)
