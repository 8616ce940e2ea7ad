"""The method `actor`: what must hold for its boxes, on made-up scenes whose right answer is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mocrop_core import (
    ACTOR,
    SOURCE_FALLBACK,
    SOURCE_MOTION,
    VECTOR,
    ActorMethod,
    Box,
    KeyFrames,
    cell_grid,
    centre_box,
    choose_actor_box,
)

few = settings(max_examples=40)
areas = st.sampled_from([0.25, 0.4, 0.5, 0.75, 1.0])


def keys_of(frame_size, frames=(0,), texture=200, picture=None):
    """Key frames of even texture, or of the one given."""
    textures = np.broadcast_to(np.asarray(texture, np.uint8), (len(frames), *cell_grid(frame_size).shape)).copy()
    return KeyFrames(tuple(frames), textures, picture)


def scene(frame_size, frames, camera, actor=None, side=8):
    """Vectors of blocks of one size: those whose centre is inside the actor's box move (6, 2) px, the others as the
    camera says of their place from the middle of the frame. In quarters of a px, as a codec has them."""
    y, x = (each.ravel() for each in np.mgrid[side // 2 : frame_size[0] : side, side // 2 : frame_size[1] : side])
    dx, dy = camera(x - frame_size[1] / 2, y - frame_size[0] / 2)
    dx, dy = np.broadcast_to(dx, x.shape).astype(float), np.broadcast_to(dy, x.shape).astype(float)
    if actor is not None:
        x0, y0, x1, y1 = actor.corners
        inside = (x0 <= x) & (x < x1) & (y0 <= y) & (y < y1)
        dx, dy = np.where(inside, dx + 6, dx), np.where(inside, dy + 2, dy)
    v = np.zeros((frames - 1, len(x)), VECTOR)
    v["frame"] = np.arange(1, frames)[:, None]
    v["x"], v["y"], v["w"], v["h"] = x, y, side, side
    v["dx"], v["dy"] = np.rint(dx * 4) / 4, np.rint(dy * 4) / 4
    return v.ravel()


CAMERAS = {
    "still": lambda x, y: (0 * x, 0 * y),
    "pan": lambda x, y: (5.5 + 0 * x, -1.25 + 0 * y),
    "zoom": lambda x, y: (0.03 * x, 0.03 * y),
    "turn": lambda x, y: (-0.02 * y, 0.02 * x),
}


@st.composite
def noise(draw):
    """Frames of whole cells with blocks of all sizes anywhere, some of them outside, and textures."""
    rows, columns = draw(st.integers(1, 14)), draw(st.integers(1, 14))
    frame_size, frames = (8 * rows, 8 * columns), draw(st.integers(2, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(0, 300))
    v = np.zeros(count, VECTOR)
    v["frame"] = np.sort(rng.integers(0, frames, count))
    v["w"], v["h"] = rng.choice([4, 8, 16], count), rng.choice([4, 8, 16], count)
    v["x"], v["y"] = rng.integers(-8, 8 * columns + 9, count), rng.integers(-8, 8 * rows + 9, count)
    v["dx"], v["dy"] = rng.integers(-40, 41, (2, count)) / 4
    numbers = (0, 5) if frames > 5 else (0,)
    textures = rng.integers(0, 256, (len(numbers), rows, columns)).astype(np.uint8)
    return v, frames, KeyFrames(numbers, textures), frame_size


def mirrored(v, frame_size, name, length):
    turned = v.copy()
    turned[name] = length - v[name]
    turned["d" + name] = -v["d" + name]
    return turned


@few
@given(noise(), areas, st.sampled_from("xy"))
def test_mirrored_vectors_give_the_mirrored_box_exactly(case, area, axis):
    v, frames, keys, (height, width) = case
    method = replace(ACTOR, crop_ratio=area)
    found = choose_actor_box([v], frames, keys, (height, width), method)
    assume(found.source == SOURCE_MOTION)
    flipped = KeyFrames(keys.frames, np.flip(keys.textures, 2 if axis == "x" else 1).copy())
    turned = mirrored(v, (height, width), axis, width if axis == "x" else height)
    other = choose_actor_box([turned], frames, flipped, (height, width), method)
    x0, y0, x1, y1 = found.box.corners
    expected = (width - x1, y0, width - x0, y1) if axis == "x" else (x0, height - y1, x1, height - y0)
    assert other.box.corners == expected
    assert np.array_equal(other.density, np.flip(found.density, 1 if axis == "x" else 0))
    assert other.score == found.score


@few
@given(noise(), st.randoms(use_true_random=False))
def test_neither_the_order_within_a_frame_nor_where_blocks_are_cut_matters(case, random):
    v, frames, keys, frame_size = case
    found = choose_actor_box([v], frames, keys, frame_size, ACTOR)
    order = sorted(range(len(v)), key=lambda i: (v["frame"][i], random.random()))
    cuts = sorted(random.choices(range(len(v) + 1), k=3))
    blocks = np.split(v[np.array(order, np.int64)], cuts)
    other = choose_actor_box(blocks, frames, keys, frame_size, ACTOR)
    assert other.box == found.box
    assert other.density.tobytes() == found.density.tobytes()


@pytest.mark.parametrize("camera", sorted(CAMERAS))
@pytest.mark.parametrize("actor", [Box(200, 120, 248, 200), Box(40, 40, 88, 120), Box(150, 90, 190, 150)], ids=str)
def test_an_actor_is_kept_wholly_whatever_the_camera_does(camera, actor):
    v = scene((240, 320), 20, CAMERAS[camera], actor, side=8)
    for area in (0.75, 0.5, 0.25):
        found = choose_actor_box([v], 20, keys_of((240, 320)), (240, 320), replace(ACTOR, crop_ratio=area))
        assert found.source == SOURCE_MOTION
        assert found.box.contains(actor), (area, found.box)


@pytest.mark.parametrize("camera", ["still", "pan"])
def test_without_motion_of_its_own_a_clip_gets_the_centre(camera):
    v = scene((240, 320), 20, CAMERAS[camera])
    found = choose_actor_box([v], 20, keys_of((240, 320)), (240, 320), ACTOR)
    assert found.box == centre_box((240, 320), 0.5)
    assert found.source == SOURCE_FALLBACK
    assert math.isnan(found.score)
    assert not found.density.any()


@pytest.mark.parametrize("factor", [2, 3])
def test_a_clip_of_twice_the_size_gets_the_box_of_twice_the_size(factor):
    actor = Box(200, 120, 248, 200)
    small = scene((240, 320), 12, CAMERAS["pan"], actor)
    large = small.copy()
    for name in ("x", "y", "w", "h", "dx", "dy"):
        large[name] = small[name] * factor
    first = choose_actor_box([small], 12, keys_of((240, 320)), (240, 320), ACTOR).box
    size = (240 * factor, 320 * factor)
    second = choose_actor_box([large], 12, keys_of(size), size, ACTOR).box
    assert np.abs(np.array(second.corners) - factor * np.array(first.corners)).max() <= factor


@settings(max_examples=60)
@given(st.tuples(st.integers(1, 700), st.integers(1, 700)), st.floats(0.05, 1), st.integers(0, 2**32 - 1))
def test_a_box_lies_in_the_frame_and_has_the_area_asked_for(frame_size, area, seed):
    rng = np.random.default_rng(seed)
    v = np.zeros(200, VECTOR)
    v["frame"] = np.sort(rng.integers(1, 5, 200))
    v["x"], v["y"] = rng.integers(-20, frame_size[1] + 20, 200), rng.integers(-20, frame_size[0] + 20, 200)
    v["w"], v["h"] = rng.choice([4, 8, 16], (2, 200))
    v["dx"], v["dy"] = rng.integers(-40, 41, (2, 200)) / 4
    found = choose_actor_box([v], 5, keys_of(frame_size), frame_size, replace(ACTOR, crop_ratio=area))
    assert Box(0, 0, frame_size[1], frame_size[0]).contains(found.box)
    wanted = area * frame_size[0] * frame_size[1]
    assert abs(found.box.area - wanted) <= found.box.width + found.box.height + 1
    assert found.density.shape == (30, 40)
    assert found.density.dtype == np.float32


@pytest.mark.parametrize(
    ("frame_size", "frames", "numbers"),
    [((5, 7), 4, (0,)), ((16, 16), 1, (0,)), ((240, 320), 1, (0,)), ((240, 320), 3, (0, 1, 2)), ((240, 320), 9, ())],
)
def test_clips_without_vectors_get_the_centre(frame_size, frames, numbers):
    for segments in (1, 4):
        method = replace(ACTOR, segments=segments)
        found = choose_actor_box([], frames, keys_of(frame_size, numbers), frame_size, method)
        assert found.box == centre_box(frame_size, 0.5)
        assert found.source == SOURCE_FALLBACK
        assert found.path is None


@pytest.mark.parametrize("frame_size", [(640, 360), (2160, 3840), (16, 4096), (1920, 1080)])
def test_an_actor_is_found_in_frames_of_any_shape(frame_size):
    height, width = frame_size
    actor = Box(width // 2, height // 2, width // 2 + max(width // 8, 16), height // 2 + max(height // 8, 8))
    v = scene(frame_size, 4, CAMERAS["pan"], actor, side=16 if height > 16 else 8)
    found = choose_actor_box([v], 4, keys_of(frame_size), frame_size, ACTOR)
    assert found.source == SOURCE_MOTION
    assert found.box.contains(actor)


@pytest.mark.parametrize(
    ("aspect", "shape"), [("frame", 320 / 240), ("square", 1), ((16, 9), 16 / 9), ((9, 16), 9 / 16)], ids=str
)
def test_a_box_has_the_aspect_asked_for(aspect, shape):
    v = scene((240, 320), 8, CAMERAS["pan"], Box(200, 120, 248, 200))
    found = choose_actor_box([v], 8, keys_of((240, 320)), (240, 320), ActorMethod(0.4, aspect=aspect))
    assert abs(found.box.width - shape * found.box.height) <= 2
    assert found.box.contains(Box(200, 120, 248, 200))


def test_an_aspect_that_does_not_fit_is_refused_with_the_numbers():
    with pytest.raises(ValueError, match=r"16:9 with crop_ratio 0\.9 .* 351x197 px.*320x240 px.*at most 0\.75"):
        choose_actor_box([], 5, keys_of((240, 320)), (240, 320), ActorMethod(0.9, aspect=(16, 9)))
    found = choose_actor_box([], 5, keys_of((240, 320)), (240, 320), ActorMethod(0.75, aspect=(16, 9)))
    assert found.box.corners == (0, 30, 320, 210)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop_ratio": 0}, "crop_ratio must lie in"),
        ({"segments": 0}, "segments must be a whole number >= 1, got 0"),
        ({"aspect": "wide"}, "aspect must be None, .*'wide'"),
        ({"aspect": (0, 1)}, "aspect must be"),
        ({"blur": (0.1, 0.0)}, "blur must be above 0"),
        ({"centre": 0.5}, "centre must be two numbers"),
        ({"max_speed": 0}, "max_speed must lie in"),
    ],
)
def test_numbers_outside_their_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(ACTOR, **change)


def test_bad_clips_are_refused():
    v = scene((16, 16), 3, CAMERAS["still"])
    keys = keys_of((16, 16))
    with pytest.raises(ValueError, match="in frame order, with frames 0 to 2"):
        choose_actor_box([v[::-1]], 3, keys, (16, 16), ACTOR)
    with pytest.raises(ValueError, match="in frame order, with frames 0 to 1"):
        choose_actor_box([v], 2, keys, (16, 16), ACTOR)
    with pytest.raises(ValueError, match=r"textures must have \(4, 4\) cells, got \(2, 2\)"):
        choose_actor_box([v], 3, keys, (32, 32), ACTOR)
    with pytest.raises(ValueError, match="frames must be increasing"):
        KeyFrames((3, 3), np.zeros((2, 2, 2), np.uint8))
    with pytest.raises(ValueError, match="textures must be"):
        KeyFrames((3,), np.zeros((2, 2, 2), np.uint8))
    v["dx"][3] = np.nan
    with pytest.raises(ValueError, match="displacements must be finite"):
        choose_actor_box([v], 3, keys, (16, 16), ACTOR)


def walk(frames=120):
    """A still camera, and an actor that walks from left to right through a clip of 240 x 320 px."""
    parts = [
        scene((240, 320), 2, CAMERAS["still"], Box(x, 80, x + 40, 160))
        for x in np.linspace(0, 280, frames - 1, dtype=int)
    ]
    for number, part in enumerate(parts, 1):
        part["frame"] = number
    return np.concatenate(parts)


def test_a_box_that_moves_follows_the_actor_and_keeps_size_and_speed():
    v, keys = walk(), keys_of((240, 320))
    still = choose_actor_box([v], 120, keys, (240, 320), ActorMethod(0.25))
    moving = choose_actor_box([v], 120, keys, (240, 320), ActorMethod(0.25, segments=6))
    assert still.path is None
    assert moving.box == still.box
    assert moving.density.tobytes() == still.density.tobytes()
    boxes = [moving.path.box_at(frame) for frame in range(120)]
    assert {(box.width, box.height) for box in boxes} == {(still.box.width, still.box.height)}
    corners = np.array([box.corners for box in boxes])
    steps = np.abs(np.diff(corners, axis=0))
    assert (steps[:, [0, 2]] <= math.ceil(0.02 * 320)).all()
    assert (steps[:, [1, 3]] <= math.ceil(0.02 * 240)).all()
    assert corners.min() >= 0
    assert (corners <= [320, 240, 320, 240]).all()
    assert corners[0, 0] < 80 < corners[-1, 0]

    def kept(x0, x1):
        actor = np.linspace(0, 280, 120)
        return np.mean(np.clip(np.minimum(x1, actor + 40) - np.maximum(x0, actor), 0, 40) / 40)

    assert kept(corners[:, 0], corners[:, 2]) > kept(still.box.x0, still.box.x1) + 0.1


def test_no_part_moves_faster_than_allowed_even_where_the_actor_jumps():
    there, back = (scene((240, 320), 2, CAMERAS["still"], Box(x, 80, x + 40, 160)) for x in (0, 280))
    parts = []
    for number in range(1, 80):
        part = (there if number // 10 % 2 else back).copy()
        part["frame"] = number
        parts.append(part)
    for speed in (0.005, 0.02, 1.0):
        method = ActorMethod(0.25, segments=8, max_speed=speed)
        path = choose_actor_box([np.concatenate(parts)], 80, keys_of((240, 320)), (240, 320), method).path
        corners = np.array([path.box_at(frame).corners for frame in np.arange(0, 80)])
        assert np.abs(np.diff(corners[:, 0])).max() <= math.ceil(speed * 320)
    assert np.ptp(corners[:, 0]) > 100


def test_more_segments_than_frames_are_no_fault():
    v = scene((240, 320), 4, CAMERAS["still"], Box(200, 120, 248, 200))
    path = choose_actor_box([v], 4, keys_of((240, 320)), (240, 320), ActorMethod(0.25, segments=50)).path
    assert len(path.boxes) == 50
    assert all(path.box_at(frame).contains(Box(200, 120, 248, 200)) for frame in range(4))


def test_a_box_keeps_off_black_bars():
    picture = (0, 36, 320, 204)
    v = scene((240, 320), 10, CAMERAS["pan"], Box(200, 120, 248, 200))
    beyond = (v["y"] < 48) | (v["y"] >= 192)  # the bars' blocks and those on their edges stand still
    v["dx"][beyond], v["dy"][beyond] = 0, 0
    found = choose_actor_box([v], 10, keys_of((240, 320), picture=picture), (240, 320), replace(ACTOR, crop_ratio=0.75))
    assert Box(*picture).contains(found.box)
    assert abs(found.box.area - 0.75 * 320 * 168) <= found.box.width + found.box.height
    assert found.box.contains(Box(200, 120, 248, 192))
    assert not found.density[:4].any()
    assert not found.density[26:].any()
    nothing = choose_actor_box([], 10, keys_of((240, 320), picture=picture), (240, 320), ACTOR)
    assert nothing.box.corners == tuple(np.add(centre_box((168, 320), 0.5).corners, (0, 36, 0, 36)))
