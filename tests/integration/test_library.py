"""``import mocrop``: what it reads and finds is what a store has, and it imports only what it needs."""

from __future__ import annotations

import importlib.metadata
import io
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pytest
from obstore.store import S3Store

import mocrop
from data_specs.recipes import MotionView
from data_specs.records import MotionRow
from data_specs.stored import VectorReader, open_store
from pipelines.media.encoder import write_video
from pipelines.media.ffmpeg_binary import find_ffmpeg
from pipelines.stages.boxes import motion_choice
from tests.places import GOLDEN
from tests.support.object_store import environment, make_bucket, s3_server

DISC = GOLDEN / "moving_disc.mp4"
HEAVY = {"torch", "torchvision", "prefect", "dask", "distributed", "obstore"}


def h264_files(store: Path) -> dict[str, Path]:
    """The H.264 file of each clip of a store of the synthetic or the real clips."""
    folder = Path(f"{store}.work", "h264")
    return {str(path.relative_to(folder))[: -len("-0123456789abcdef.mp4")]: path for path in folder.rglob("*.mp4")}


def same(a: mocrop.BoxSelection, b: mocrop.BoxSelection) -> bool:
    """Whether two choices are equal to the bit."""
    return (a.box, a.score, a.source, a.path) == (b.box, b.score, b.source, b.path) and np.array_equal(
        a.density, b.density
    )


@pytest.mark.parametrize(
    ("method", "settings"),
    [*((name, {}) for name in mocrop.list_methods()), ("actor", {"segments": 4, "aspect": "square"})],
)
def test_a_box_is_that_of_the_boxes_stage_for_the_same_file(
    method: Any, settings: dict[str, Any], ucf_store: Path
) -> None:
    store, files = open_store(ucf_store), h264_files(ucf_store)
    view, chosen = MotionView(preset=method, **settings), mocrop.create_method(method, **settings)
    shards = store.records(MotionRow)
    assert len(shards) == 4
    for shard, record in shards.items():
        row = shard * store.recipe.clips_per_shard
        id = store.ids[row]
        of_stage = motion_choice(view, store.recipe, id, record.clips[id], VectorReader(store.zarr, shard), 0)
        assert same(mocrop.find_box(files[id], chosen, clip_id=id), of_stage)
        assert same(mocrop.find_box(mocrop.open_store(ucf_store).motion_vectors(row), chosen, clip_id=id), of_stage)


def test_a_box_is_the_one_in_a_store_for_the_same_file(ucf_store: Path) -> None:
    store, files = mocrop.open_store(ucf_store), h264_files(ucf_store)
    view = open_store(ucf_store).view("mocrop")
    compared = 0
    for row, id in enumerate(store.ids):
        found = mocrop.find_box(files[id], "paper-v1", clip_id=id)
        assert found.box.corners == tuple(store.boxes("mocrop")[row])
        np.testing.assert_array_equal(found.density, view.table("density")[row])
        assert np.float32(found.score) == view.table("score")[row]
        assert found.source == view.table("source")[row]
        compared += 1
    assert compared == 15


def test_motion_vectors_of_a_store_are_those_of_the_file(ucf_store: Path) -> None:
    store, files = mocrop.open_store(ucf_store), h264_files(ucf_store)
    for row in (0, 14):
        of_store, of_file = store.motion_vectors(row), mocrop.read_motion_vectors(files[store.ids[row]])
        np.testing.assert_array_equal(of_store.vectors, of_file.vectors)
        assert of_store.texture is not None
        np.testing.assert_array_equal(of_store.texture, of_file.texture)
        assert of_store.picture == of_file.picture
        assert repr(of_store) == repr(of_file)
        assert of_store.key_frames == of_file.key_frames


def test_crops_are_the_cached_frames_of_a_store(ucf_store: Path) -> None:
    store, files = mocrop.open_store(ucf_store), h264_files(ucf_store)
    numbers = [int(number) for number in open_store(ucf_store).view("mocrop").table("frame_index")[3] if number >= 0]
    made = mocrop.crop(files[store.ids[3]], mocrop.Box(*store.boxes("mocrop")[3].tolist()), size=96, frames=numbers)
    np.testing.assert_array_equal(made, store.frames("mocrop", 3))


def test_a_path_bytes_and_a_file_object_give_the_same_vectors() -> None:
    by_path = mocrop.read_motion_vectors(str(DISC)).vectors
    assert len(by_path) == 13608
    for source in (DISC, DISC.read_bytes(), io.BytesIO(DISC.read_bytes())):
        np.testing.assert_array_equal(mocrop.read_motion_vectors(source).vectors, by_path)


def test_flow_and_density_of_a_moving_disc_are_where_it_moves() -> None:
    mv = mocrop.read_motion_vectors(DISC)
    flow, density = mv.flow(cell=16), mv.density(grid=(15, 20), threshold=1.0)
    assert np.isnan(flow[list(mv.key_frames)]).all()
    fast = np.nansum(np.hypot(flow[..., 0], flow[..., 1]), axis=0)
    assert np.corrcoef(fast.ravel(), density.ravel())[0, 1] > 0.8


def test_what_moves_to_the_right_has_a_negative_displacement(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8).repeat(16, 0).repeat(16, 1)
    write_video(tmp_path / "pan.mp4", [np.roll(picture, 3 * n, 1) for n in range(8)], 25, codec="libx264")
    mv = mocrop.read_motion_vectors(tmp_path / "pan.mp4")
    flow = mv.flow(cell=16)[1:, 1:-1, 4:-4]
    assert np.median(flow[..., 0]) == -3
    assert np.median(flow[..., 1]) == 0


def test_a_stream_that_is_left_out_is_a_warning(tmp_path: Path) -> None:
    two = tmp_path / "two.mkv"
    maps = ["-i", str(DISC), "-map", "0:v", "-map", "0:v", "-c:v:0", "copy", "-c:v:1", "libx264", "-s:v:1", "64x48"]
    subprocess.run([find_ffmpeg().path, "-v", "error", *maps, str(two)], check=True, timeout=60)
    with pytest.warns(UserWarning, match=r"two\.mkv: stream 0 .* is used; left out: stream 1 \(h264 64x48") as warned:
        assert len(mocrop.read_motion_vectors(two)) == 13608
    assert [Path(one.filename) for one in warned] == [Path(__file__)], "it names the line that called"


def test_a_codec_without_vectors_is_transcoded_for_the_box_and_refused_for_the_vectors(tmp_path: Path) -> None:
    from pipelines.media.decoder import rgb_frames

    video = tmp_path / "disc.webm"
    pictures = [picture for _, picture in rgb_frames(DISC, range(12))]
    write_video(video, pictures, 25, codec="libx264", vcodec="libvpx-vp9", format="webm", speed=8)
    with pytest.raises(mocrop.VideoError, match=r"disc\.webm: its codec vp9 gives no") as raised:
        mocrop.read_motion_vectors(video)
    advice = ": transcode it to H.264, or use find_box, crop_video or mocrop crop, which transcode it themselves"
    assert str(raised.value).endswith(f"gives no motion vectors{advice}")
    found, expected = mocrop.find_box(video, area=0.5), mocrop.find_box(DISC, area=0.5)
    assert found.source == mocrop.SOURCE_MOTION
    assert found.box.area == pytest.approx(expected.box.area, rel=0.25)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mocrop.read_motion_vectors("no.mp4"), mocrop.VideoError, "no.mp4: no such file"),
        (
            lambda: mocrop.read_motion_vectors(b"not a video"),
            mocrop.VideoError,
            "the video given as bytes: it is not a",
        ),
        (lambda: mocrop.read_motion_vectors(io.StringIO("x")), TypeError, "opened in binary mode, got a StringIO"),  # type: ignore[arg-type]
        (lambda: mocrop.read_motion_vectors(7), TypeError, "source must be a path, bytes or a file object"),  # type: ignore[arg-type]
        (lambda: mocrop.find_box(DISC, "paper-v9"), ValueError, "method 'paper-v9': give one of actor, paper-v1, "),
        (lambda: mocrop.find_box(DISC, area=1.5), ValueError, "area must lie in (0, 1], got 1.5"),
        (lambda: mocrop.create_method("paper-v1", grip=(1, 1)), ValueError, "has no grip; it has grid, "),
        (lambda: mocrop.crop(DISC, mocrop.Box(0, 0, 400, 100)), ValueError, "leaves the frame of 320x240 px"),
        (lambda: mocrop.crop(DISC, mocrop.Box(0, 0, 9, 9), frames=[99]), mocrop.VideoError, "ends after 50 frames"),
        (lambda: mocrop.crop(DISC, mocrop.Box(0, 0, 9, 9), size=0), ValueError, "size"),
    ],
)
def test_a_wrong_call_is_refused_in_one_line(call: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        call()  # type: ignore[operator]
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_row_or_a_view_that_does_not_exist_is_refused(synth_store: Path) -> None:
    store = mocrop.open_store(synth_store)
    with pytest.raises(mocrop.StoreError, match="row 12: the store has rows 0 to 11"):
        store.motion_vectors(12)
    with pytest.raises(mocrop.StoreError, match="view 'motion'"):
        store.frames("motion", 0)
    with pytest.raises(mocrop.StoreError, match="no such store; create it with mocrop preprocess"):
        mocrop.open_store(synth_store / "no.zarr")


def test_every_public_name_is_there() -> None:
    assert mocrop.__all__
    for name in mocrop.__all__:
        assert getattr(mocrop, name) is not None
    assert dir(mocrop) == sorted([*mocrop.__all__, "__version__", "transforms"])
    assert mocrop.__version__ == importlib.metadata.version("mocrop")


def loaded_by(script: str, folder: Path) -> set[str]:
    """The packages that a script has imported at its end."""
    line = "import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    run = [sys.executable, "-P", "-c", f"{script}\n{line}"]
    return set(subprocess.run(run, capture_output=True, text=True, check=True, cwd=folder).stdout.split())


def test_reading_a_video_and_a_store_imports_no_heavy_library(synth_store: Path, tmp_path: Path) -> None:
    shutil.copy(DISC, tmp_path / "clip.mp4")
    assert not loaded_by("import mocrop", tmp_path) & {*HEAVY, "av", "zarr", "pydantic"}
    script = f"""import mocrop
found = mocrop.find_box("clip.mp4")
mocrop.crop("clip.mp4", found.box, frames=1)
store = mocrop.open_store({str(synth_store)!r})
store.boxes("mocrop"), store.frames("mocrop", 0), store.motion_vectors(0), store.views, store.done"""
    loaded = loaded_by(script, tmp_path)
    assert {"av", "zarr", "mocrop"} <= loaded
    assert not loaded & HEAVY


def test_a_video_and_a_store_are_read_from_an_object_store(synth_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server() as address:
        make_bucket(address, "bucket")
        for name, value in environment(address).items():
            monkeypatch.setenv(name, value)
        objects = S3Store("bucket", client_options={"allow_http": True})
        obstore.put(objects, "clip.mp4", DISC)
        for path in synth_store.rglob("*"):
            if path.is_file():
                obstore.put(objects, f"some/videos.zarr/{path.relative_to(synth_store)}", path)
        assert len(mocrop.read_motion_vectors("s3://bucket/clip.mp4")) == 13608
        remote, local = mocrop.open_store("s3://bucket/some/videos.zarr"), mocrop.open_store(synth_store)
        np.testing.assert_array_equal(remote.boxes("mocrop"), local.boxes("mocrop"))
        np.testing.assert_array_equal(remote.frames("mocrop", 7), local.frames("mocrop", 7))
        np.testing.assert_array_equal(remote.motion_vectors(7).vectors, local.motion_vectors(7).vectors)
        with pytest.raises(mocrop.StoreError, match=r"'s3://bucket/none\.mp4': no such object"):
            mocrop.read_motion_vectors("s3://bucket/none.mp4")
