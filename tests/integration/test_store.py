"""The store as the contract has it, read with nothing but zarr and xarray; and what verify finds."""

from __future__ import annotations

import random
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr

from data_specs.stored import StoreError, VectorReader, open_store
from mocrop_core.boxes import Box
from mocrop_core.density import density_map
from mocrop_core.method import choose_box
from mocrop_core.vectors import clip_rng
from pipelines.runs.options import Options
from pipelines.store.verify import verify
from tests.conftest import run_stages
from tests.support.rewriting import rewrite

TABLES = {
    "id": ("clip",),
    "label": ("clip",),
    "split": ("clip", "list"),
    "state": ("clip",),
    "reason": ("clip",),
    "num_frames": ("clip",),
    "frame_size": ("clip", "hw"),
}
VIEW = {
    "box": ("clip", "x0y0x1y1"),
    "score": ("clip",),
    "source": ("clip",),
    "frames": ("clip", "frame", "y", "x", "channel"),
    "frame_index": ("clip", "frame"),
}


def test_the_store_has_the_contracts_arrays_with_dimension_names(ucf_store: Path) -> None:
    root = zarr.open_group(ucf_store, mode="r")
    assert root.attrs["mocrop_format"] == 2
    assert {"dataset", "recipe", "fingerprint", "class_names", "software"} <= set(root.attrs)
    expected = dict(TABLES)
    for view in ("full", "centre", "random", "mocrop"):
        expected |= {f"views/{view}/{name}": dims for name, dims in VIEW.items()}
        assert {"params", "fingerprint"} == set(root[f"views/{view}"].attrs)
    expected["views/mocrop/density"] = ("clip", "row", "col")
    assert {path: root[path].metadata.dimension_names for path in expected} == expected
    dtypes = {"label": "int16", "split": "uint8", "state": "uint8", "num_frames": "int32", "frame_size": "int32"}
    assert {name: str(root[name].dtype) for name in dtypes} == dtypes
    assert "density" not in root["views/full"]


def test_xarray_and_zarr_open_it_without_a_warning(ucf_store: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = xarray.open_zarr(ucf_store, consolidated=False)
        view = xarray.open_zarr(ucf_store, group="views/mocrop", consolidated=False)
        members = dict(zarr.open_group(ucf_store, mode="r").members(max_depth=None))
    assert dataset["id"].values[0] == "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01"
    assert view["frames"].shape == (15, 8, 96, 96, 3)
    assert "motion/00000" in members


def test_xarray_opens_the_whole_tree(ucf_store: Path) -> None:
    """A dimension of a group is that of the groups above it where both have one of its name."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tree = xarray.open_datatree(ucf_store, consolidated=False)
    groups = {group.path.strip("/") for group in tree.subtree}
    root = zarr.open_group(ucf_store, mode="r")
    assert groups == {"", *(path for path, node in root.members(max_depth=None) if isinstance(node, zarr.Group))}
    assert tree["motion/00001"].dims == ("block_00001", "column", "value")
    assert np.array_equal(tree["motion/00001"].values, root["motion/00001"][:])  # type: ignore[index]
    done = tree["views/mocrop"].dataset.isel(clip=tree["state"].values == 1)
    assert done["frames"].dims == VIEW["frames"]
    assert done.sizes["clip"] == 15


def test_a_shard_is_one_object_per_array_that_tasks_write_and_one_folder(ucf_store: Path) -> None:
    store = open_store(ucf_store)
    shards = range(store.num_shards)
    motion = {str(path.relative_to(ucf_store)) for path in (ucf_store / "motion").rglob("*")}
    expected = {f"motion/{shard:05}{name}" for shard in shards for name in ("", "/zarr.json", "/c.0.0.0")}
    assert motion == {"motion/zarr.json", *expected}
    arrays = 0
    for view in store.views:
        for folder in (ucf_store / "views" / view).iterdir():
            if folder.is_dir():
                arrays += 1
                counts = {"frames": len(shards), "density": len(shards)}
                names = [path.name for path in folder.iterdir() if path.is_file()]
                assert len(names) == len(list(folder.iterdir())), "no folders"
                assert len(names) <= 1 + counts.get(folder.name, 1)
    assert arrays == 4 * 5 + 1


def test_motion_takes_no_more_bytes_than_in_format_1(ucf_store: Path) -> None:
    """1,358,415 bytes of these 15 clips at commit c3e2041, of which 184,000 were texture and 35,000 documents."""
    sizes = [path.stat().st_size for path in (ucf_store / "motion").rglob("*") if path.is_file()]
    assert len(sizes) == 9
    assert 1_000_000 < sum(sizes) < 1_358_415


def test_rows_are_sorted_done_and_consistent(ucf_store: Path) -> None:
    store = open_store(ucf_store)
    assert store.ids == sorted(store.ids)
    assert set(store.table("state").tolist()) == {1}
    assert set(store.table("reason").tolist()) == {""}
    sizes, frames = store.table("frame_size"), store.table("num_frames")
    assert sizes.tolist() == [[240, 320]] * 15
    for name in store.views:
        view = store.view(name)
        indices = view.table("frame_index")
        assert (indices.max(axis=1) < frames).all()
        filled = indices >= 0
        assert (filled.sum(axis=1) >= 4).all()
        pictures = np.asarray(view.array("frames")[:])
        assert (pictures[~filled] == 0).all()
        assert (pictures[filled].reshape(filled.sum(), -1).std(axis=1) > 1).all()
        boxes = [Box(*box) for box in view.table("box").tolist()]
        assert all(box.x1 <= 320 and box.y1 <= 240 for box in boxes)


def test_views_are_what_they_say(ucf_store: Path) -> None:
    store = open_store(ucf_store)
    assert store.view("full").table("box").tolist() == [[0, 0, 320, 240]] * 15
    centre = store.view("centre").table("box")
    assert (centre == centre[0]).all()
    random_boxes = store.view("random").table("box")
    assert len({tuple(box) for box in random_boxes.tolist()}) > 10
    for boxes in (centre, random_boxes):
        width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
        assert abs(width * height / (320 * 240) - 0.75).max() < 0.01
    assert store.view("full").table("source").tolist() == [2] * 15
    mocrop = store.view("mocrop")
    assert mocrop.table("source").tolist() == [1] * 15
    density, score = mocrop.table("density"), mocrop.table("score")
    assert density.shape == (15, 6, 8)
    assert (score > 0.7).all()


def test_the_stored_vectors_are_enough_to_choose_the_boxes_again(ucf_store: Path) -> None:
    store = open_store(ucf_store)
    view = store.view("mocrop")
    method = store.recipe.view("mocrop").method()  # type: ignore[union-attr]
    for row in (0, 7, 14):
        shard, index = divmod(row, store.recipe.clips_per_shard)
        vectors = VectorReader(store.zarr, shard).read(index)
        choice = choose_box(vectors, (240, 320), method, clip_rng(store.recipe.seed, store.ids[row], "motion"))
        assert [choice.box.x0, choice.box.y0, choice.box.x1, choice.box.y1] == view.table("box")[row].tolist()
        assert (choice.density == view.table("density")[row]).all()
        assert density_map(vectors, (240, 320), (6, 8)).sum() == len(vectors)


def test_a_whole_store_verifies(ucf_store: Path) -> None:
    assert verify(str(ucf_store)) == []


def test_verify_finds_flipped_bytes_and_the_next_run_repairs_just_them(
    own_ucf_store: Path, ucf_options: Options
) -> None:
    before = contents(own_ucf_store)
    chunks = [path for path in before if "/c." in path]
    rng = random.Random(0)
    for path in rng.sample(chunks, 2):
        place = own_ucf_store / path
        damaged = bytearray(before[path])
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        rewrite(place, damaged)
        assert verify(str(own_ucf_store)), f"a flipped bit in {path} was not found"
        summary, done = run_stages(replace(ucf_options, store=str(own_ucf_store)))
        assert summary.done == 15
        assert len(done) <= 1
        assert contents(own_ucf_store) == before, f"{path} was not mended"


def test_verify_finds_missing_shards(own_ucf_store: Path, ucf_options: Options) -> None:
    before = contents(own_ucf_store)
    (own_ucf_store / "views/mocrop/frames/c.0.0.0.0.0").unlink()
    (own_ucf_store / "motion/00002/c.0.0.0").unlink()
    faults = verify(str(own_ucf_store))
    assert {fault.where for fault in faults if "missing" in fault.what} == {
        "views/mocrop/frames/c.0.0.0.0.0",
        "motion/00002/c.0.0.0",
    }
    _, done = run_stages(replace(ucf_options, store=str(own_ucf_store)))
    assert sorted(done) == ["clips", "motion"]
    assert contents(own_ucf_store) == before
    assert verify(str(own_ucf_store)) == []


def test_verify_finds_tables_and_fingerprints_that_do_not_follow(own_ucf_store: Path) -> None:
    root = zarr.open_group(own_ucf_store, mode="r+")
    root["num_frames"][3] = 7
    root["views/mocrop/box"][2] = [0, 0, 9999, 9999]
    root["label"][5] = 0
    faults = {fault.where: fault.what for fault in verify(str(own_ucf_store))}
    assert set(faults) == {"num_frames", "views/mocrop/box", "zarr.json"}
    assert faults["zarr.json"] == "its fingerprint does not follow from its clips, classes and recipe"


def test_places_that_hold_no_store_are_named(tmp_path: Path, own_ucf_store: Path) -> None:
    with pytest.raises(StoreError, match="no such store; create it with mocrop preprocess"):
        open_store(tmp_path / "gone.zarr")
    zarr.create_group(tmp_path / "other.zarr")
    with pytest.raises(StoreError, match="not a mocrop store"):
        open_store(tmp_path / "other.zarr")
    zarr.open_group(own_ucf_store, mode="r+").attrs["mocrop_format"] = 1
    with pytest.raises(
        StoreError, match=r"has format 1; .* 2\. Create it again with mocrop preprocess --source .* NEW"
    ):
        open_store(own_ucf_store)
    zarr.open_group(own_ucf_store, mode="r+").attrs["mocrop_format"] = 7
    with pytest.raises(StoreError, match="has format 7; this version reads format 2"):
        open_store(own_ucf_store)


def contents(store: Path) -> dict[str, bytes]:
    """Every file of a store but the note of how long stages took."""
    files = {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}
    files.pop("progress/zarr.json", None)
    return files
