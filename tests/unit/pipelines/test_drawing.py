"""Small pictures, figures and videos of clips."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from data_specs.stored import StoreError, open_store
from pipelines.cli.app import app
from pipelines.media.decoder import decode_all, rgb_frames
from pipelines.report.clip_reader import ClipReader
from pipelines.report.contact_sheet import contact_sheet
from pipelines.report.drawing import clip_figure, draw_density, draw_vectors, fitting, h264_path, webp, write_clip_video
from pipelines.runs.options import Options
from tests.integration.test_report_file import stopped_after
from tests.support.rewriting import rewrite

CLIP = "Basketball/v_Basketball_g01_c01"


@pytest.fixture(scope="module")
def reader(ucf_store: Path) -> ClipReader:
    return ClipReader(open_store(ucf_store))


@pytest.mark.parametrize("most", [200, 1000, 3000, 20_000])
def test_a_thumbnail_never_takes_more_bytes_than_it_may(most: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    data = webp(noise, (240, 180), most)
    image = Image.open(io.BytesIO(data))
    assert len(data) <= most
    assert image.format == "WEBP"
    assert abs(image.width / image.height - 4 / 3) < 0.1


def test_a_thumbnail_of_a_real_frame_keeps_its_size_and_its_look(reader: ClipReader) -> None:
    row = reader.store.row(CLIP)
    picture = reader.picture("full", row, reader.slots("full", row)[0])
    small = np.asarray(Image.open(io.BytesIO(webp(picture, (240, 180), 3000))), float)
    meant = np.asarray(Image.fromarray(picture).resize((240, 180), Image.Resampling.LANCZOS), float)
    assert small.shape == (180, 240, 3)
    assert np.abs(small - meant).mean() < 8


def test_proportions_are_kept_down_to_one_pixel() -> None:
    assert fitting((320, 240), 240) == (240, 180)
    assert fitting((240, 320), 240) == (180, 240)
    assert fitting((1000, 1), 100) == (100, 1)


def test_density_tints_the_full_cells_and_leaves_the_empty_ones() -> None:
    grey = Image.new("RGB", (80, 60), (100, 100, 100))
    density = np.zeros((6, 8))
    density[2, 3] = 5
    drawn = np.asarray(draw_density(grey, density))
    assert (drawn[20:30, 30:40, 0] > 150).all()
    changed = (drawn != 100).any(axis=2)
    assert changed[20:30, 30:40].all()
    assert changed.sum() == 100
    assert np.array_equal(np.asarray(draw_density(grey, np.zeros((6, 8)))), np.asarray(grey))


def test_an_arrow_ends_at_the_block_and_comes_from_where_it_was() -> None:
    from mocrop_core import VECTOR

    image = Image.new("RGB", (100, 100))
    vector = np.zeros(2, VECTOR)
    vector[0] = (0, 60, 50, 16, 16, -10, 0)  # predicted from 10 px to the left: it moves to the right
    draw_vectors(image, vector, (1, 1))
    columns = np.flatnonzero((np.asarray(image) == 255).all(axis=2).any(axis=0))
    assert 38 <= columns.min() <= 41  # drawn twice as long
    assert 59 <= columns.max() <= 61


def test_a_figure_shows_every_view_asked_for(reader: ClipReader) -> None:
    one, four = clip_figure(reader, CLIP, ["mocrop"]), clip_figure(reader, CLIP, reader.store.views)
    assert four.height > one.height
    assert one.getpixel((2, 2)) == (255, 255, 255)
    assert len(one.getcolors(1 << 20) or []) > 1000


def test_a_clip_that_is_not_there_is_refused(reader: ClipReader) -> None:
    with pytest.raises(StoreError, match="is not in"):
        clip_figure(reader, "Nothing/here", ["mocrop"])


def test_a_clip_without_a_box_is_refused_with_the_reason(synth_data: Path, tmp_path: Path) -> None:
    source = tmp_path / "UCF-101"
    shutil.copytree(synth_data / "UCF-101", source)
    broken = min(source.rglob("*.avi"))
    broken.write_bytes(b"no video")
    stopped_after(Options(str(source), str(tmp_path / "s.zarr"), None, "smoke", limit=4), "motion")
    reader = ClipReader(open_store(tmp_path / "s.zarr"))
    id = f"{broken.parent.name}/{broken.stem}"
    for clip, why in ((id, r"it is quarantined \(transcode: "), (reader.ids[1], "it is not done yet")):
        with pytest.raises(StoreError, match=f"clip '{clip}' has no box in full, mocrop: {why}"):
            clip_figure(reader, clip, ["full", "mocrop"])
        with pytest.raises(StoreError, match=f"clip '{clip}' cannot be drawn as a video"):
            write_clip_video(reader, clip, ["mocrop"], tmp_path / "clip.mp4")
    assert not (tmp_path / "clip.mp4").exists()


@pytest.mark.parametrize("array", ["views/full/frames", "views/mocrop/density"])
def test_a_clip_with_damaged_pictures_is_refused_in_one_line(own_ucf_store: Path, tmp_path: Path, array: str) -> None:
    chunks = list((own_ucf_store / array).glob("c.*"))
    assert chunks
    for chunk in chunks:
        rewrite(chunk, chunk.read_bytes()[:-3])
    figure = str(tmp_path / "clip.png")
    refused = CliRunner().invoke(app, ["boxes", str(own_ucf_store), "--clip", CLIP, "--png", figure])
    assert isinstance(refused.exception, StoreError)
    assert array in str(refused.exception)
    assert "mocrop verify marks the damage" in str(refused.exception)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.avi"])
def test_a_video_has_every_frame_with_the_box_drawn_in(reader: ClipReader, tmp_path: Path, name: str) -> None:
    row = reader.store.row(CLIP)
    assert write_clip_video(reader, CLIP, ["mocrop"], tmp_path / name)
    assert decode_all(tmp_path / name).frames == reader.tables["num_frames"][row]
    path = h264_path(reader, row, None)
    assert path is not None
    ((_, drawn),) = rgb_frames(tmp_path / name, [12], None)
    ((_, plain),) = rgb_frames(path, [12], None)
    assert drawn.shape == (480, 640, 3)
    box = reader.box("mocrop", row)
    assert box is not None
    x0, y0, x1, y1 = (2 * edge for edge in box)
    difference = np.abs(drawn.astype(float) - plain.repeat(2, 0).repeat(2, 1)).mean(axis=2)
    edge = [difference[y0 : y0 + 4, x0:x1], difference[y0:y1, x0 : x0 + 4], difference[y1 - 4 : y1, x0:x1]]
    assert min(part.mean() for part in edge) > 3 * difference[y0 + 20 : y1 - 20, x0 + 20 : x1 - 20].mean()


def test_without_the_h264_file_cached_frames_stand_until_the_next(reader: ClipReader, tmp_path: Path) -> None:
    target = tmp_path / "held.mp4"
    assert not write_clip_video(reader, CLIP, ["mocrop"], target, str(tmp_path / "nowhere"))
    assert decode_all(target).frames == reader.tables["num_frames"][reader.store.row(CLIP)]


def test_the_commands_draw_and_refuse(ucf_store: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    png, video = tmp_path / "clip.png", tmp_path / "clip.mp4"
    drawn = run(app, ["boxes", str(ucf_store), "--clip", CLIP, "--png", str(png), "--video", str(video)])
    assert drawn.exit_code == 0
    assert drawn.stdout.split() == [str(png), str(video)]
    with Image.open(png) as image:
        assert image.format == "PNG"
    assert video.stat().st_size > 10_000
    report = run(app, ["report", str(ucf_store), "--out", str(tmp_path / "r.html"), "--clips", "1", "--json"])
    assert report.exit_code == 0
    made = json.loads(report.stdout)
    assert made["clips"] == 15
    assert made["pictures"] == made["details"] == 1
    refusals = {
        "name it with --clip": ["boxes", str(ucf_store), "--png", str(png)],
        r"--video 'x.gif'": ["boxes", str(ucf_store), "--clip", CLIP, "--video", "x.gif"],
        "does not exist; create it first": ["report", str(ucf_store), "--out", str(tmp_path / "no" / "r.html")],
        "is a folder": ["report", str(ucf_store), "--out", str(tmp_path)],
        "is not in": ["report", str(ucf_store), "--out", str(tmp_path / "r.html"), "--clip", "none"],
    }
    for says, words in refusals.items():
        refused = run(app, words)
        assert refused.exit_code == 1
        assert says in str(refused.exception)


def test_a_contact_sheet_shows_each_clip_with_its_box(reader: ClipReader) -> None:
    sheet = contact_sheet(reader)
    assert sheet is not None
    orange = (np.asarray(sheet, int) - (255, 106, 43)).__abs__().sum(axis=2) < 30
    tiles = [orange[8 + line * 192 :, 8 + column * 208 :][:150, :200] for line in range(3) for column in range(6)]
    boxed = [tile.sum() > 500 for tile in tiles]
    assert boxed == [True] * 15 + [False] * 3
    few = contact_sheet(reader, clips=2)
    assert few is not None
    assert few.width < sheet.width / 2


def test_a_store_without_boxes_has_no_contact_sheet(own_ucf_store: Path) -> None:
    for record in own_ucf_store.glob("progress/boxes*"):
        shutil.rmtree(record)
    assert not any(ClipReader(open_store(own_ucf_store)).tables["views/mocrop/source"])
    assert contact_sheet(ClipReader(open_store(own_ucf_store))) is None
