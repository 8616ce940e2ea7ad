"""Motion vectors: which are kept, and which are drawn."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mocrop_core
from mocrop_core import (
    ACTOR,
    PACKED,
    PAPER_V1,
    VECTOR,
    KeyFrames,
    choose_actor_box,
    choose_box,
    choose_box_from,
    clip_rng,
    denoise,
    density_map,
    filter_by_magnitude,
    in_pixels,
    magnitudes,
    sample,
    sample_by_speed,
    sample_uniform,
    share_of,
    top_k,
)

many = settings(max_examples=100)
quarters = st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), max_size=60)  # of a pixel
fractions = st.sampled_from([0.01, 0.1, 0.5, 0.9, 1.0])


def moving(quarters):
    """Vectors of these displacements in quarter pixels; `frame` numbers them."""
    v = np.zeros(len(quarters), VECTOR)
    v["frame"] = np.arange(len(v))
    v["dx"], v["dy"] = np.array(quarters, dtype=np.float32).reshape(-1, 2).T / 4
    return v


def is_subset_in_order(part, whole):
    return (np.diff(part["frame"]) > 0).all() and (part == whole[part["frame"]]).all()


@many
@given(quarters)
def test_magnitudes_are_euclidean(displacements):
    found = magnitudes(moving(displacements))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [math.hypot(x, y) / 4 for x, y in displacements], rtol=1e-6)


def test_vectors_of_just_the_threshold_are_left_out():
    v = moving([(12, 16), (12, 17), (0, 0), (-20, 0), (-21, 0)])
    assert filter_by_magnitude(v, 5.0)["frame"].tolist() == [1, 4]
    assert filter_by_magnitude(v, 0)["frame"].tolist() == [0, 1, 3, 4]


@many
@given(quarters, st.integers(0, 70))
def test_fastest_are_the_first_of_a_stable_sort(displacements, count):
    v = moving(displacements)
    order = sorted(range(len(v)), key=lambda i: (-(displacements[i][0] ** 2 + displacements[i][1] ** 2), i))
    assert top_k(v, count)["frame"].tolist() == sorted(order[:count])


@many
@given(quarters, st.integers(0, 70), st.lists(st.integers(0, 60), max_size=5))
def test_fastest_of_the_kept_and_the_next_block_are_the_fastest_of_all(displacements, count, cuts):
    v = moving(displacements)
    kept = v[:0]
    for block in np.split(v, sorted(min(cut, len(v)) for cut in cuts)):
        kept = top_k(np.concatenate([kept, block]), count)
    np.testing.assert_array_equal(kept, top_k(v, count))


@pytest.mark.parametrize(
    ("total", "fraction", "share"),
    [(0, 0.5, 0), (1, 0.01, 1), (100, 0.07, 7), (300, 0.01, 3), (301, 0.01, 4), (30, 0.1, 3), (5, 1, 5)],
)
def test_a_share_is_rounded_up_in_decimals(total, fraction, share):
    assert share_of(total, fraction) == share


@many
@given(quarters, st.integers(0, 70), st.integers(0, 2**32))
def test_a_uniform_sample_is_a_subset_in_order_and_depends_on_the_stream_alone(displacements, count, seed):
    v = moving(displacements)
    drawn, again = (sample_uniform(v, count, np.random.default_rng(seed)) for _ in range(2))
    assert len(drawn) == min(count, len(v))
    assert is_subset_in_order(drawn, v)
    np.testing.assert_array_equal(drawn, again)


@many
@given(quarters, fractions, st.sampled_from([0, 0.5, 1, 4, 50]), st.integers(0, 2**32))
def test_a_sample_by_speed_is_a_subset_in_order_and_depends_on_the_stream_alone(displacements, fraction, power, seed):
    v = moving(displacements)
    drawn, again = (sample_by_speed(v, fraction, power, np.random.default_rng(seed)) for _ in range(2))
    assert len(drawn) == share_of(len(v), fraction)
    assert is_subset_in_order(drawn, v)
    np.testing.assert_array_equal(drawn, again)


@many
@given(quarters, fractions, st.sampled_from([0.5, 4, 300]), st.integers(0, 2**32))
def test_a_still_vector_is_drawn_only_when_nothing_else_is_left(displacements, fraction, power, seed):
    v = moving(displacements)
    drawn = sample_by_speed(v, fraction, power, np.random.default_rng(seed))
    still = np.count_nonzero(magnitudes(drawn) == 0)
    assert still == max(0, len(drawn) - np.count_nonzero(magnitudes(v)))


def frequencies(draw, n, times):
    rng = np.random.default_rng(7)
    return sum(np.bincount(draw(rng)["frame"], minlength=n) for _ in range(times)) / times


def test_a_uniform_sample_draws_all_alike():
    v = moving([(i, 1) for i in range(10)])
    assert abs(frequencies(lambda rng: sample_uniform(v, 3, rng), 10, 4000) - 0.3).max() < 0.03


@pytest.mark.parametrize("power", [0, 1, 2])
def test_a_sample_by_speed_has_odds_proportional_to_the_power_of_the_speed(power):
    v = moving([(4, 0), (0, 8), (-12, 0), (0, -16)])
    odds = np.array([1.0, 2.0, 3.0, 4.0]) ** power
    drawn = frequencies(lambda rng: sample_by_speed(v, 0.25, power, rng), 4, 8000)
    assert abs(drawn - odds / odds.sum()).max() < 0.02


def test_a_second_draw_has_the_odds_of_those_left():
    v = moving([(4, 0), (8, 0), (12, 0)])
    both = frequencies(lambda rng: sample_by_speed(v, 0.5, 1, rng), 3, 8000)  # two of three
    wanted = [1 - sum(a * b / (6 - a) for a, b in pairs) / 6 for pairs in left_out_of_two([1, 2, 3])]
    assert abs(both - wanted).max() < 0.02


def left_out_of_two(odds):
    """For each item, the ordered pairs of the others' odds: those draws leave it out."""
    for out in range(3):
        a, b = (odd for i, odd in enumerate(odds) if i != out)
        yield (a, b), (b, a)


def test_all_still_vectors_are_sampled_alike():
    v = moving([(0, 0)] * 10)
    assert abs(frequencies(lambda rng: sample_by_speed(v, 0.3, 4, rng), 10, 4000) - 0.3).max() < 0.03


@pytest.mark.filterwarnings("error")
def test_speeds_of_any_size_are_sampled_without_underflow():
    v = moving([(0, 0), (1, 0), (2, 0), (3, 0)])
    v["dx"] = [0, 1e-30, 1e-20, 1e30]
    drawn = sample_by_speed(v, 0.5, 40, np.random.default_rng(0))
    assert drawn["frame"].tolist() == [2, 3]


def test_nothing_is_drawn_where_all_are_wanted():
    v, rng = moving([(1, 1), (2, 2)]), np.random.default_rng(0)
    before = rng.bit_generator.state
    assert len(sample_uniform(v, 2, rng)) == len(sample_by_speed(v, 1.0, 4, rng)) == 2
    assert rng.bit_generator.state == before


def test_no_vectors_give_no_vectors():
    v, rng = moving([]), np.random.default_rng(0)
    for found in (
        filter_by_magnitude(v, 1),
        top_k(v, 3),
        top_k(moving([(1, 1)]), 0),
        sample_uniform(v, 3, rng),
        sample_by_speed(v, 0.1, 4, rng),
    ):
        assert found.dtype == VECTOR
        assert len(found) == 0


def test_results_are_copies():
    v, rng = moving([(1, 1), (2, 2)]), np.random.default_rng(0)
    for found in (
        filter_by_magnitude(v, 0),
        top_k(v, 2),
        sample_uniform(v, 2, rng),
        sample_by_speed(v, 1.0, 4, rng),
    ):
        assert len(found) == 2
        assert not np.shares_memory(found, v)


def test_streams_depend_on_seed_clip_and_purpose():
    names = [(0, "a/b", "box"), (1, "a/b", "box"), (0, "a/c", "box"), (0, "a/b", "frames"), (0, "a/bb", "ox")]
    firsts = {clip_rng(*name).integers(2**62) for name in names}
    assert len(firsts) == len(names)
    assert firsts == {clip_rng(*name).integers(2**62) for name in names}
    assert clip_rng(np.int64(0), "a/b", "box").integers(2**62) == clip_rng(0, "a/b", "box").integers(2**62)


def test_a_stream_is_the_same_on_every_machine():
    """Golden: PCG64's first draws, seeded with the SHA-256 of "(0, 'v_\\xe9', 'box')" read big-endian."""
    assert clip_rng(0, "v_é", "box").integers(1000, size=4).tolist() == [978, 959, 319, 3]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.filterwarnings("error")
def test_a_displacement_that_is_not_finite_is_refused_with_its_place(bad):
    v = moving([(1, 1), (2, 2)])
    v["dy"][1] = bad
    with pytest.raises(ValueError, match=rf"\(0\.5, {bad}\) at vector 1"):
        magnitudes(v)


@pytest.mark.parametrize(
    ("call", "value"),
    [
        (lambda v, rng: filter_by_magnitude(v, -1.0), "-1.0"),
        (lambda v, rng: filter_by_magnitude(v, math.nan), "nan"),
        (lambda v, rng: top_k(v, -2), "-2"),
        (lambda v, rng: share_of(-5, 0.5), "-5"),
        (lambda v, rng: share_of(5, 1.5), "1.5"),
        (lambda v, rng: sample_uniform(v, -3, rng), "-3"),
        (lambda v, rng: sample_by_speed(v, 0, 4, rng), "0"),
        (lambda v, rng: sample_by_speed(v, 0.1, -4, rng), "-4"),
    ],
)
def test_an_argument_outside_its_range_is_refused_with_its_value(call, value):
    with pytest.raises(ValueError, match=f"got {value}$"):
        call(moving([(1, 1)]), np.random.default_rng(0))


def test_a_seed_that_is_no_integer_is_refused():
    with pytest.raises(TypeError, match="float"):
        clip_rng(0.5, "a", "box")


SEEN = KeyFrames((0,), np.zeros((1, 30, 40), np.uint8))
TAKE_VECTORS = {
    "choose_actor_box": lambda v: choose_actor_box([v], 2, SEEN, (240, 320), ACTOR),
    "choose_box": lambda v: choose_box(v, (240, 320), PAPER_V1, clip_rng(0, "a", "b")),
    "choose_box_from": lambda v: choose_box_from(v, (240, 320), PAPER_V1, clip_rng(0, "a", "b")),
    "denoise": lambda v: denoise([v], PAPER_V1, len(v)),
    "density_map": lambda v: density_map(v, (240, 320), (6, 8)),
    "filter_by_magnitude": lambda v: filter_by_magnitude(v, 1.0),
    "top_k": lambda v: top_k(v, 3),
    "magnitudes": magnitudes,
    "sample": lambda v: sample(v, PAPER_V1, clip_rng(0, "a", "b")),
    "sample_by_speed": lambda v: sample_by_speed(v, 0.5, 4.0, clip_rng(0, "a", "b")),
    "sample_uniform": lambda v: sample_uniform(v, 3, clip_rng(0, "a", "b")),
}


def test_every_public_function_that_takes_vectors_is_among_those_tested_here():
    functions = {name: getattr(mocrop_core, name) for name in mocrop_core.__all__}
    parameters = {
        name: [p.annotation for p in inspect.signature(function).parameters.values()]
        for name, function in functions.items()
        if inspect.isfunction(function)
    }
    assert {name for name, kinds in parameters.items() if any("Vectors" in kind for kind in kinds)} == set(TAKE_VECTORS)


@pytest.mark.parametrize("name", TAKE_VECTORS)
@pytest.mark.parametrize("count", [0, 2, 20])
def test_packed_vectors_are_refused_with_the_way_to_convert_them(name, count):
    """Quarter pixels taken for pixels choose another box, or nothing fails and a threshold is four times too low."""
    with pytest.raises(ValueError, match=r"mocrop_core\.in_pixels\(packed, motion_scale\)"):
        TAKE_VECTORS[name](np.zeros(count, PACKED))
    TAKE_VECTORS[name](in_pixels(np.zeros(count, PACKED), 4))


@pytest.mark.parametrize("name", TAKE_VECTORS)
@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros(2, [(field, "<i2" if field in ("dx", "dy") else VECTOR[field]) for field in VECTOR.names]),
        np.zeros(2, VECTOR)[["x", "y", "dx", "dy"]],
        np.zeros((2, 2), VECTOR),
        np.zeros((2, 4)),
        [(0, 8, 8, 16, 16, 1.0, 1.0)],
    ],
    ids=["integer displacements", "fields left out", "two dimensions", "plain numbers", "a list"],
)
def test_what_is_no_array_of_vectors_is_refused(name, wrong):
    with pytest.raises(ValueError, match=r"must be a one-dimensional array of mocrop_core\.VECTOR, got "):
        TAKE_VECTORS[name](wrong)


@many
@given(quarters, st.integers(1, 8))
def test_packed_vectors_in_pixels_are_their_units_divided_by_the_scale(displacements, scale):
    packed = np.zeros(len(displacements), PACKED)
    packed["frame"], packed["x"], packed["h"] = np.arange(len(packed)), 7, 16
    packed["motion_x"], packed["motion_y"] = np.array(displacements, dtype=np.int16).reshape(-1, 2).T
    before = packed.copy()
    v = in_pixels(packed, scale)
    assert v.dtype == VECTOR
    assert np.array_equal(packed, before)
    assert v["dx"].tolist() == [np.float32(x) / np.float32(scale) for x, _ in displacements]
    assert v["dy"].tolist() == [np.float32(y) / np.float32(scale) for _, y in displacements]
    for field in ("frame", "x", "y", "w", "h"):
        assert np.array_equal(v[field], packed[field])


@pytest.mark.parametrize(
    ("packed", "scale", "said"),
    [
        (np.zeros(2, VECTOR), 4, "packed must be a one-dimensional array of mocrop_core.PACKED, got"),
        (np.zeros((1, 2), PACKED), 4, "packed must be a one-dimensional array"),
        ([], 4, "got list"),
        (np.zeros(2, PACKED), 0, "motion_scale must be a whole number >= 1, got 0"),
    ],
)
def test_only_packed_vectors_with_a_scale_are_converted(packed, scale, said):
    with pytest.raises(ValueError, match=said):
        in_pixels(packed, scale)
