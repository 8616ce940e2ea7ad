"""Recipes: what is in ours, and what a wrong one is told."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from data_specs.recipes import (
    MAX_RECTANGLES,
    Encode,
    FixedView,
    MotionView,
    Recipe,
    RecipeError,
    automatic_shard_clips,
    builtin_recipes,
    load_recipe,
    num_rectangles,
    parse_recipe,
    view_params,
    view_rng,
)
from mocrop_core.actor import ACTOR
from mocrop_core.method import PAPER_V1, PAPER_V2
from mocrop_core.vectors import clip_rng
from pipelines.media.encoder import EncodeSettings
from pipelines.media.limits import MEMORY


def test_the_ucf101_recipe_is_the_papers_set_up_and_the_recommended_box() -> None:
    recipe = load_recipe("ucf101")
    assert [view.name for view in recipe.views] == ["full", "mocrop", "actor"]
    actor = recipe.view("actor")
    assert isinstance(actor, MotionView)
    assert actor.method() == ACTOR
    view = recipe.view("mocrop")
    assert isinstance(view, MotionView)
    assert view.method() == PAPER_V1
    assert (view.method().grid, view.method().crop_ratio) == ((6, 8), 0.75)
    assert (recipe.frames.choose, recipe.frames.slots, recipe.frames.size) == ("key", 16, 256)


def test_what_is_encoded_without_settings_is_encoded_as_by_ucf101() -> None:
    """So that a box found in a video that had to be transcoded is the one that a store would have."""
    encode = load_recipe("ucf101").transcode
    assert encode == Encode()
    assert EncodeSettings(**Encode().model_dump()) == EncodeSettings()


@pytest.mark.parametrize(
    ("clips", "expected"), [(1, 1), (12, 1), (127, 1), (128, 2), (1_000, 8), (4_095, 32), (4_096, 64), (650_000, 64)]
)
def test_automatic_shards_follow_the_number_of_clips(clips: int, expected: int) -> None:
    assert automatic_shard_clips(clips) == expected
    assert Recipe().sized_for(clips) == Recipe(shard_clips=expected)
    assert Recipe(shard_clips=5).sized_for(clips).clips_per_shard == 5


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (0, "shard_clips = 0: Input should be greater than or equal to 1"),
        (1025, "shard_clips = 1025: Input should be less than or equal to 1024"),
        ("many", "shard_clips = 'many': Input should be 'auto'"),
    ],
)
def test_a_wrong_number_of_clips_per_shard_is_one_problem(value: object, problem: str) -> None:
    with pytest.raises(RecipeError) as refused:
        parse_recipe({"shard_clips": value}, "mine")
    assert str(refused.value) == f"recipe mine: {problem}"


def test_our_recipes_are_named_and_load() -> None:
    assert builtin_recipes() == ["demo", "smoke", "ucf101"]
    names = [load_recipe(name).name for name in builtin_recipes()]
    assert names == builtin_recipes()


def test_a_view_takes_its_own_numbers_over_its_presets() -> None:
    view = MotionView(preset="paper-v2", grid=(4, 5), crop_ratio=0.5, overrides={"keep": ["fastest", 0.2]})
    params = view_params(view)
    assert (params["grid"], params["crop_ratio"], params["keep"]) == ([4, 5], 0.5, ["fastest", 0.2])
    assert params["mean_weight"] == PAPER_V2.mean_weight


def test_random_views_draw_from_streams_of_their_own_and_motion_views_from_one() -> None:
    """The same method gives the same box whatever its view is called, and in a library call without a store."""
    draws = {
        name: view_rng(view, 7, "A/a").integers(2**62)
        for name, view in {
            "random": FixedView(kind="random"),
            "other random": FixedView(kind="random", name="other"),
            "mocrop": MotionView(),
            "other motion": MotionView(name="other"),
        }.items()
    }
    assert draws["random"] == clip_rng(7, "A/a", "random").integers(2**62)
    assert draws["mocrop"] == draws["other motion"] == clip_rng(7, "A/a", "motion").integers(2**62)
    assert len(set(draws.values())) == 3


def test_the_name_decides_the_boxes_of_random_views_alone() -> None:
    for one, other, same in (
        (FixedView(kind="random", name="a"), FixedView(kind="random", name="b"), False),
        (FixedView(kind="centre", name="a"), FixedView(kind="centre", name="b"), True),
        (MotionView(name="a"), MotionView(name="b"), True),
    ):
        assert (view_params(one) == view_params(other)) is same


def test_a_recipe_survives_being_written_as_json() -> None:
    recipe = load_recipe("smoke")
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


def test_a_file_is_read_as_toml(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('name = "own"\ntranscode = "keep"\n[frames]\nchoose = "uniform"\n')
    recipe = load_recipe(path)
    assert (recipe.transcode, recipe.frames.choose) == ("keep", "uniform")


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"sed": 1}, "unknown key 'sed'"),
        ({"frames": {"slot": 1}}, "unknown key 'frames.slot'"),
        ({"views": [{"kind": "motion", "crop_ratio": 1.5}]}, "crop_ratio = 1.5: .*less than or equal to 1"),
        ({"views": [{"kind": "motion", "crop_ratio": 0}]}, "crop_ratio = 0: .*greater than 0"),
        ({"views": [{"kind": "motion", "grid": [0, 8]}]}, "grid.0 = 0: .*greater than or equal to 1"),
        ({"views": [{"kind": "full"}, {"kind": "full"}]}, "more than one is named 'full'"),
        ({"views": [{"kind": "motoin"}]}, "views.0: kind 'motoin'; give full, centre, random or motion"),
        ({"views": [{"name": "mocrop"}]}, "views.0: kind None; give full, centre, random or motion"),
        ({"views": []}, "at least 1 item"),
        ({"views": [{"kind": "motion", "overrides": {"epsilon": 2}}]}, "overrides: unknown epsilon; known: arithmetic"),
        ({"views": [{"kind": "motion", "overrides": {"keep": ["threshold", -1]}}]}, "threshold"),
        ({"views": [{"kind": "full", "name": "../x"}]}, "name = '../x'"),
        ({"transcode": "kep"}, "transcode = 'kep': Input should be 'keep'"),
        ({"transcode": {"crf": 99}}, "transcode.crf = 99: .*less than or equal to 51"),
        ({"frames": {"codec": {"name": "zstd", "quality": 4}}}, "quality 4 goes with the codec jpeg, not zstd"),
        ({"seed": -1}, "seed = -1"),
        ({"time_limit": 86_401}, "time_limit = 86401: .*less than or equal to 86400"),
        ({"time_limit": float("inf")}, "time_limit = inf: .*a finite number"),
        ({"time_limit": float("nan")}, "time_limit = nan: .*a finite number"),
        (
            {"views": [{"kind": "motion", "overrides": {"grid": [1000, 1000], "crop_ratio": 0.5}}]},
            "overrides: grid and crop_ratio: set this in the view itself, not in overrides",
        ),
        (
            {"views": [{"kind": "motion", "grid": [240, 240], "crop_ratio": 0.25}]},
            r"grid \[240, 240\] with crop_ratio 0.25 and .* 0.1: 39,886,088 rectangles to try, more than 6,000,000",
        ),
        (
            {"views": [{"kind": "motion", "grid": [120, 120], "overrides": {"tolerance": 1}}]},
            r"grid \[120, 120\] with .* 52,\d+,\d+ rectangles to try",
        ),
    ],
)
def test_a_wrong_recipe_is_told_the_key_the_value_and_what_is_right(values: dict[str, Any], line: str) -> None:
    with pytest.raises(RecipeError, match=line) as caught:
        parse_recipe(values, "'x.toml'")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("recipe 'x.toml': ")


LARGEST_SEARCH = """
import json, pathlib, numpy
from mocrop_core import best_rectangle
def peak():
    return int(pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
before = peak()
best_rectangle(numpy.random.default_rng(0).random((60, 80)), 0.5, tolerance=1.0)
print(peak() - before)
"""


def test_the_largest_search_that_a_recipe_may_ask_for_fits_a_worker() -> None:
    view = {"kind": "motion", "grid": [60, 80], "crop_ratio": 0.5, "overrides": {"tolerance": 1.0}}
    assert num_rectangles(MotionView.model_validate(view).method()) > 0.9 * MAX_RECTANGLES
    found = subprocess.run([sys.executable, "-c", LARGEST_SEARCH], capture_output=True, text=True, check=True)
    assert float(found.stdout) * 2**20 < MEMORY / 2


def test_files_that_are_no_recipe_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"No such file.*one of: demo, smoke, ucf101"):
        load_recipe(tmp_path / "gone.toml")
    (tmp_path / "broken.toml").write_text("name = \n")
    with pytest.raises(RecipeError, match="not TOML"):
        load_recipe(tmp_path / "broken.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="not a text file"):
        load_recipe(tmp_path / "binary.toml")


HOSTILE_TOML = {
    "nested arrays": "a = " + "[\n" * 30_000,
    "nested tables": "a = " + "{a = " * 190,
    "decimal": "seed = " + "9" * 900 + "\n[frames]\nsize = 8",
    "hexadecimal": "seed = 0x" + "f" * 900,
    "in a method": '[[views]]\nkind = "motion"\noverrides = { tolerance = 0x' + "f" * 900 + " }",
    "long key": ("a" + ".a" * 5000) + " = 1",
    "long keys": "".join(f"a{i}" + ".a" * 480 + " = 1\n" for i in range(64)),
    "long text": 'name = """' + ("x" * 900 + "\n") * 30 + '"""',
    "line ends of other kinds": '"' + "\u2028" * 20_000 + '" = 1',
    "many keys": "".join(f"key{i} = 1\n" for i in range(4000)),
    "many tables": "".join(f"[[views]]\nkind = {i}\n" for i in range(2000)),
    "nul": 'name = "a\0b"',
    "escaped nul": 'name = "a\\u0000b"',
    "escape sequence": 'name = "\\u001b[31m"',
    "date": "seed = 1979-05-27",
    "infinite": "time_limit = inf",
}


@pytest.mark.parametrize("kind", HOSTILE_TOML)
def test_hostile_recipes_are_refused_in_one_short_line(kind: str, tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(HOSTILE_TOML[kind], encoding="utf-8")
    with pytest.raises(RecipeError, match=r"^recipe '.*x\.toml': ") as refused:
        load_recipe(tmp_path / "x.toml")
    line = str(refused.value)
    assert not re.search(r"[\x00-\x1f\u2028]", line)
    assert len(line) < 3600


def test_numbers_of_thousands_of_digits_are_refused(tmp_path: Path) -> None:
    """A line may not hold them, but a store's recipe may."""
    for number in (10**5000, 1 << 20_000, -(10**30)):
        with pytest.raises(RecipeError, match=r"an integer of \d+ bits, more than 64"):
            parse_recipe({"seed": number}, "x")
        with pytest.raises(RecipeError, match=r"an integer of \d+ bits, more than 64"):
            parse_recipe({"views": [{"kind": "motion", "overrides": {"tolerance": number}}]}, "x")
    deep: object = 1
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(RecipeError, match="nested more than 10 deep"):
        parse_recipe({"views": deep}, "x")


def test_a_file_that_is_too_large_is_refused_by_its_size(tmp_path: Path) -> None:
    with (tmp_path / "x.toml").open("wb") as file:
        file.truncate(50_000_000)
    for path in (tmp_path / "x.toml", Path("/dev/zero")):
        with pytest.raises(RecipeError, match="more than 65536 bytes; give a TOML file that is a recipe"):
            load_recipe(path)


def test_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b"\xef\xbb\xbfseed = 5\r\n")
    assert load_recipe(tmp_path / "x.toml").seed == 5


def test_a_password_in_a_recipes_address_is_not_shown() -> None:
    for recipe in ("https://user:geheim@host/x.toml", "s3:/user:geheim@bucket/x.toml", "x\0geheim@"):
        with pytest.raises(RecipeError) as refused:
            load_recipe(recipe)
        assert "geheim" not in str(refused.value) or "\0" in recipe
