"""The synthetic data set: it has UCF-101's form, only its actors move, and still frames tell nothing."""

from __future__ import annotations

import colorsys
import json
import re
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_specs.datasets import read_dataset
from mocrop_core.search import best_rectangle
from pipelines.acquire import synthetic, synthetic_scenes
from pipelines.media import decoder, encoder, ffmpeg_binary

CLASSES, CLIPS, FRAMES = 3, 4, 20


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> synthetic.Synth:
    folder = tmp_path_factory.mktemp("synth") / "new" / "data"
    return synthetic.write_dataset(folder, classes=CLASSES, clips_per_class=CLIPS, frames=FRAMES)


def decoded(path: Path) -> np.ndarray:
    """All frames of a written video, (frames, 240, 320, 3) int16."""
    return np.stack([frame.astype(np.int16) for _, frame in decoder.rgb_frames(path, range(FRAMES), None)])


def ids(made: synthetic.Synth) -> list[str]:
    return [clip_id for clip_id, _ in synthetic.clip_ids(made.class_names, CLIPS)]


def test_lists_and_names_have_the_official_form(made: synthetic.Synth) -> None:
    names = [f"{kind}list0{split}.txt" for kind in ("train", "test") for split in (1, 2, 3)]
    assert sorted(path.name for path in made.splits.iterdir()) == sorted([*names, "classInd.txt"])
    assert made.splits.joinpath("classInd.txt").read_bytes() == b"1 MovingCross\r\n2 MovingDisc\r\n3 MovingStar\r\n"
    for name in names:
        label = rb" (\d)" if name.startswith("train") else b""
        line = rb"(Moving\w+)/v_\1_g0\d_c0\d\.avi" + label + rb"\r\n"
        text = made.splits.joinpath(name).read_bytes()
        assert re.fullmatch(rb"(?:" + line.replace(rb"\1", rb"Moving\w+") + rb")+", text), text
        found = re.findall(line, text)
        assert len(found) == text.count(b"\n") > 0
    assert len(list(made.source.glob("*/*.avi"))) == made.clips == made.written == CLASSES * CLIPS


def test_the_data_set_reads_back_as_one_of_ours(made: synthetic.Synth) -> None:
    data = read_dataset(made.directory, made.splits, strict=True)
    assert data.class_names == made.class_names
    assert [clip.id for clip in data.clips] == sorted(ids(made))
    for clip in data.clips:
        assert data.class_names[clip.label] == clip.id.split("/")[0]
        assert len(clip.split) == 3
        assert set(clip.split) <= {1, 2}
    for split in range(3):
        tested = {re.search(r"_g(\d\d)_", clip.id)[1] for clip in data.clips if clip.split[split] == 2}
        trained = {re.search(r"_g(\d\d)_", clip.id)[1] for clip in data.clips if clip.split[split] == 1}
        assert tested
        assert trained
        assert not tested & trained


@given(st.integers(3, 2475))
def test_every_split_tests_other_groups_and_trains_on_the_rest(clips: int) -> None:
    groups = synthetic.groups_of(clips)
    count = max(groups)
    assert list(groups) == sorted(groups)
    assert set(groups) == set(range(1, count + 1))
    assert 3 <= count <= 25
    assert max(groups.count(group) for group in range(1, count + 1)) <= 99
    tested = [set(synthetic.tested_groups(count, split)) for split in (1, 2, 3)]
    assert all(tested)
    assert len(set.union(*tested)) == sum(map(len, tested)) <= count


def test_groups_are_as_in_ucf101_where_there_are_as_many() -> None:
    assert [synthetic.tested_groups(25, split) for split in (1, 2, 3)] == [
        range(1, 8),
        range(8, 15),
        range(15, 22),
    ]


def test_videos_are_encoded_as_those_of_ucf101(made: synthetic.Synth) -> None:
    for clip_id in ids(made):
        path = made.source / f"{clip_id}.avi"
        header = path.read_bytes()[:512]
        probe = decoder.probe(path)
        assert (probe.codec, probe.width, probe.height) == ("mpeg4", 320, 240)
        assert b"XVID" in header
        assert struct.unpack_from("<I", header, 32) == (40_000,)  # microseconds a frame: 25 a second
        assert decoder.decode_all(path).frames == FRAMES


def test_only_the_actor_changes_and_its_box_holds_it(made: synthetic.Synth) -> None:
    """Means of 4x4 px even out the sensor's noise; what then changes by over 9 levels of luma is in a box.

    Luma, because the codec smears the colour of figures that stand still by up to 35 levels.
    """
    actors = json.loads(made.annotations.read_text())
    assert list(actors) == ids(made)
    moving = 0
    still = set(actors) - synthetic.with_moving_camera(synthetic.clip_ids(made.class_names, CLIPS))
    assert len(still) == CLASSES * CLIPS / 2
    for clip_id, actor in actors.items():
        x, y, w, h = np.array(actor["tubes"][0]["boxes_xywh"]).T
        assert (min(x), min(y)) >= (0, 0)
        assert max(x + w) <= 320
        assert max(y + h) <= 240
        if clip_id not in still:
            continue
        assert list(actor) == ["num_frames", "tubes"]
        assert actor["num_frames"] == FRAMES
        (tube,) = actor["tubes"]
        assert (tube["start_frame"], tube["end_frame"], len(tube["boxes_xywh"])) == (0, FRAMES, FRAMES)
        frames = decoded(made.source / f"{clip_id}.avi")
        luma = frames @ np.array([0.299, 0.587, 0.114])
        blocks = luma.reshape(FRAMES, 60, 4, 80, 4).mean(axis=(2, 4))
        changed = np.abs(np.diff(blocks, axis=0)) > 9
        for frame in range(FRAMES - 1):
            inside = np.zeros((60, 80), dtype=bool)
            for x, y, w, h in tube["boxes_xywh"][frame : frame + 2]:
                inside[max(0, y - 4) // 4 : (y + h + 7) // 4, max(0, x - 4) // 4 : (x + w + 7) // 4] = True
            assert not (changed[frame] & ~inside).any(), (clip_id, frame)
            moving += bool(changed[frame].any())
    assert moving > 0.9 * len(still) * (FRAMES - 1)


@pytest.mark.parametrize("classes", [4, 12])
def test_where_the_camera_moves_all_but_the_actor_moves_with_it_and_stays_in_the_frame(classes: int) -> None:
    """In the scene's coordinates nothing changes outside the actor's boxes but noise."""
    speeds = []
    for k in range(4):
        name = synthetic.class_names(classes)[k]
        clip_id = f"{name}/v_{name}_g01_c02"
        scene = synthetic_scenes.compose(0, clip_id, classes, 25, moving_camera=True)
        speeds += np.hypot(*np.diff(scene.camera, axis=0).T).tolist()
        assert (np.abs(scene.camera) <= synthetic_scenes.SWAY).all()
        for figure in scene.figures:
            at = figure.centres - scene.camera
            assert (at - figure.radius).min() > 0
            assert (at + figure.radius < [320, 240]).all()
        frames = [frame.astype(int) for frame in synthetic_scenes.draw(scene, 0, clip_id, 1)]
        boxes = synthetic_scenes.actor_boxes(scene)
        moved = 0
        for frame, camera, box in zip(frames[1:], scene.camera[1:], boxes[1:], strict=True):
            dx, dy = camera - scene.camera[0]
            here, there = (slice(max(0, -d), size - max(0, d)) for d, size in ((dy, 240), (dx, 320)))
            first = slice(here.start + dy, here.stop + dy), slice(there.start + dx, there.stop + dx)
            changed = np.zeros((240, 320), dtype=bool)
            changed[here, there] = np.abs(frame[here, there] - frames[0][first]).max(axis=2) > 24
            for x, y, w, h in (box, [boxes[0][0] - dx, boxes[0][1] - dy, *boxes[0][2:]]):
                moved += bool(changed[max(0, y) : y + h, max(0, x) : x + w].any())
                changed[max(0, y) : y + h, max(0, x) : x + w] = False
            assert not changed.any()
        assert moved > 20
    assert 1 < np.median(speeds) < 5


def test_boxes_are_the_drawn_actor_to_the_pixel() -> None:
    """Against the same scene with the actor far away, what differs by more than noise spans the box."""
    checked = 0
    for clip_id in ("MovingStar/v_MovingStar_g01_c01", "MovingBolt/v_MovingBolt_g02_c01"):
        scene = synthetic_scenes.compose(3, clip_id, 12, 30)
        frames = np.stack(list(synthetic_scenes.draw(scene, 3, clip_id, 1))).astype(np.int16)
        for k, (x, y, w, h) in enumerate(synthetic_scenes.actor_boxes(scene)):
            path = np.abs(scene.figures[scene.actor].centres - scene.figures[scene.actor].centres[k]).max(axis=1)
            without = frames[path > 30]  # the actor has gone by more than its own size
            if not len(without):
                continue
            rows, cols = np.nonzero(np.abs(frames[k] - np.median(without, axis=0)).max(axis=2) > 24)
            near = (np.abs(rows - y - h / 2) < h) & (np.abs(cols - x - w / 2) < w)
            low, high = (rows[near].min(), cols[near].min()), (rows[near].max() + 1, cols[near].max() + 1)
            assert low[0] >= y
            assert low[1] >= x
            assert high[0] <= y + h
            assert high[1] <= x + w
            np.testing.assert_allclose([*low, *high], [y, x, y + h, x + w], atol=2)
            checked += 1
    assert checked >= 20


@pytest.mark.parametrize("classes", [2, 4, 12])
def test_every_frame_shows_one_figure_of_each_class(classes: int) -> None:
    name = synthetic.class_names(classes)[-1]
    clip_id = f"{name}/v_{name}_g01_c01"
    scene = synthetic_scenes.compose(0, clip_id, classes, 8)
    assert [figure.kind for figure in scene.figures] == list(range(classes))
    frames = list(synthetic_scenes.draw(scene, 0, clip_id, 1))
    assert len(frames) == 8
    rows, cols = np.mgrid[:240, :320]
    for k, frame in enumerate(frames):
        assert frame.shape == (240, 320, 3)
        assert frame.dtype == np.uint8
        vivid = np.ptp(frame.astype(int), axis=2) > 0.6 * frame.max(axis=2).clip(110)
        hues = np.full((240, 320), np.nan)
        for row, col in zip(*np.nonzero(vivid), strict=True):
            hues[row, col] = colorsys.rgb_to_hsv(*frame[row, col] / 255)[0]
        for figure in scene.figures:
            mine = np.abs((hues - figure.hue + 0.5) % 1 - 0.5) < 0.02
            x, y = figure.centres[k]
            near = np.hypot(cols + 0.5 - x, rows + 0.5 - y) < figure.radius + 1
            assert (mine & near).sum() > 0.2 * figure.radius**2, synthetic_scenes.FIGURES[figure.kind]
            assert (mine & ~near).sum() <= 5, synthetic_scenes.FIGURES[figure.kind]


def test_only_the_actor_of_a_scene_moves_and_speeds_differ() -> None:
    speeds = []
    for k in range(40):
        scene = synthetic_scenes.compose(1, f"MovingStar/v_MovingStar_g01_c{k:02d}", 4, 50)
        assert synthetic_scenes.FIGURES[scene.actor] == "Star"
        for kind, figure in enumerate(scene.figures):
            assert figure.centres.shape == (50, 2)
            assert (np.ptp(figure.centres, axis=0).max() > 5) == (kind == scene.actor)
        steps = np.hypot(*np.diff(scene.figures[scene.actor].centres, axis=0).T)
        speeds.append(float(np.median(steps)))
    assert min(speeds) < 2.2
    assert max(speeds) > 5


def test_equal_arguments_give_equal_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    first, same, other = (
        synthetic.write_dataset(tmp_path / name, classes=2, clips_per_class=3, frames=8, seed=seed).directory
        for name, seed in (("first", 0), ("same", 0), ("other", 1))
    )
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert len(files) == 2 * 3 + 7 + 2
    for file in files:
        assert (first / file).read_bytes() == (same / file).read_bytes()
        if file.suffix == ".avi":
            assert (first / file).read_bytes() != (other / file).read_bytes()


def test_a_class_does_not_show_in_the_background() -> None:
    """The clips of a group stand before one place in all classes; another group has another."""
    backgrounds = {}
    for name in synthetic.class_names(4):
        for group in (1, 2):
            clip_id = f"{name}/v_{name}_g{group:02d}_c01"
            frames = list(synthetic_scenes.draw(synthetic.compose(0, clip_id, 4, 8), 0, clip_id, group))
            backgrounds[name, group] = np.median(frames, axis=0).astype(int)
    for name in synthetic.class_names(4):
        difference = np.abs(backgrounds[name, 1] - backgrounds["MovingDisc", 1]).max(axis=2)
        assert np.mean(difference > 12) < 0.2  # the figures stand elsewhere
        assert np.mean(np.abs(backgrounds[name, 1] - backgrounds[name, 2]).max(axis=2) > 12) > 0.5


def test_an_unfinished_data_set_is_finished_and_each_clip_reported(tmp_path: Path) -> None:
    arguments = {"classes": 2, "clips_per_class": 3, "frames": 8}
    seen: list[tuple[str, int, int]] = []

    def stop(clip_id: str, done: int, total: int) -> None:
        seen.append((clip_id, done, total))
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthetic.write_dataset(tmp_path, **arguments, on_clip=stop)
    assert [done for _, done, _ in seen] == [1, 2, 3, 4]
    assert {total for _, _, total in seen} == {6}
    finished = synthetic.write_dataset(tmp_path, **arguments)
    assert (finished.clips, finished.written) == (6, 2)
    assert len(json.loads(finished.annotations.read_text())) == 6
    assert synthetic.write_dataset(tmp_path, **arguments).written == 0
    with pytest.raises(FileExistsError, match=r"another synthetic data set \(seed 0 not 5\)"):
        synthetic.write_dataset(tmp_path, **arguments, seed=5)


def test_a_folder_that_is_not_ours_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "synth.json").write_text("mine too")
    with pytest.raises(FileExistsError, match="not empty and not from `mocrop synth`"):
        synthetic.write_dataset(tmp_path)
    with pytest.raises(FileExistsError, match="not empty"):
        synthetic.write_dataset(tmp_path / "mine.txt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt", "synth.json"]


@pytest.mark.parametrize(
    ("argument", "value", "range_"),
    [
        ("classes", 1, "2 to 12"),
        ("classes", 13, "2 to 12"),
        ("clips_per_class", 2, "3 to 2475"),
        ("clips_per_class", 2476, "3 to 2475"),
        ("seed", -1, "0 to"),
        ("frames", 7, "8 to"),
    ],
)
def test_a_number_out_of_range_is_refused_before_anything_is_written(
    argument: str, value: int, range_: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"{argument} is {value}, expected {range_}"):
        synthetic.write_dataset(tmp_path / "new", **{argument: value})
    assert not (tmp_path / "new").exists()


@dataclass
class Knowledge:
    """How often a guess is right that knows one thing about a frame; and shares, over many scenes."""

    nearest_the_centre: float = 0
    loneliest: float = 0
    whole_in_the_best_box: float = 0
    whole_in_a_centre_box: float = 0
    bystanders_kept: float = 0
    path_held: float = 0
    near_an_edge: float = 0


def knowledge(classes: int, scenes: int, moving_camera: bool = False) -> Knowledge:
    known = Knowledge()
    side = 0.75**0.5
    for k in range(scenes):
        name = synthetic.class_names(classes)[k % classes]
        clip_id = f"{name}/v_{name}_g01_c{k:04d}"
        scene = synthetic_scenes.compose(9, clip_id, classes, 50, moving_camera=moving_camera)
        at = np.array([figure.centres - scene.camera for figure in scene.figures])
        radius = np.array([figure.radius for figure in scene.figures])[:, None]
        density = np.zeros((6, 8))
        for x, y, w, h in synthetic_scenes.actor_boxes(scene):
            cols, rows = np.arange(x, x + w, 8), np.arange(y, y + h, 8)
            np.add.at(density, (rows[:, None] * 6 // 240, cols * 8 // 320), 1)
        best = best_rectangle(density, 0.75)
        box = np.array([best.col0, best.row0, best.col1, best.row1]) * 40
        centre = np.array([160 - 160 * side, 120 - 120 * side, 160 + 160 * side, 120 + 120 * side])
        for bounds, field in ((box, "whole_in_the_best_box"), (centre, "whole_in_a_centre_box")):
            reach = np.stack([at[..., 0] - radius, at[..., 1] - radius], axis=-1) >= bounds[:2]
            reach &= np.stack([at[..., 0] + radius, at[..., 1] + radius], axis=-1) <= bounds[2:]
            whole = reach.all(axis=-1)
            right = np.where(whole[scene.actor], 1 / whole.sum(axis=0).clip(1), 1 / classes).mean()
            setattr(known, field, getattr(known, field) + right / scenes)
            if bounds is box:
                known.path_held += whole[scene.actor].all() / scenes
                known.bystanders_kept += (whole.sum(axis=0) - whole[scene.actor]).mean() / (classes - 1) / scenes
        frame = at[:, k % 50]
        apart = np.hypot(*(frame[:, None] - frame[None]).T) + 1000 * np.eye(classes)
        known.nearest_the_centre += (np.hypot(*(frame - [160, 120]).T).argmin() == scene.actor) / scenes
        known.loneliest += (apart.min(axis=0).argmax() == scene.actor) / scenes
        low, high = (at - radius[..., None])[scene.actor].min(0), (at + radius[..., None])[scene.actor].max(0)
        known.near_an_edge += bool((low < 8).any() or (high > [312, 232]).any()) / scenes
    return known


@pytest.mark.soak
def test_a_still_frame_tells_nothing_and_a_crop_what_the_docstring_says() -> None:
    four, twelve, swaying = knowledge(4, 400), knowledge(12, 120), knowledge(4, 400, moving_camera=True)
    assert four.nearest_the_centre == pytest.approx(1 / 4, abs=0.06)
    assert four.loneliest == pytest.approx(1 / 4, abs=0.06)
    assert four.whole_in_the_best_box == pytest.approx(0.43, abs=0.04)
    assert four.whole_in_a_centre_box == pytest.approx(0.29, abs=0.03)
    assert four.bystanders_kept == pytest.approx(0.56, abs=0.04)
    assert four.path_held > 0.9
    assert 0.1 < four.near_an_edge < 0.4
    assert swaying.nearest_the_centre == pytest.approx(1 / 4, abs=0.06)
    assert swaying.loneliest == pytest.approx(1 / 4, abs=0.06)
    assert swaying.whole_in_the_best_box == pytest.approx(0.36, abs=0.04)
    assert swaying.whole_in_a_centre_box == pytest.approx(0.27, abs=0.03)
    assert swaying.bystanders_kept == pytest.approx(0.67, abs=0.04)
    assert twelve.nearest_the_centre == pytest.approx(1 / 12, abs=0.06)
    assert twelve.whole_in_the_best_box == pytest.approx(0.14, abs=0.02)
    assert twelve.whole_in_a_centre_box == pytest.approx(0.11, abs=0.02)


def test_a_codec_finds_motion_in_the_actor_and_noise_elsewhere(made: synthetic.Synth, tmp_path: Path) -> None:
    """After the transcode stage most vectors above one pixel are the actor's, most others are the noise's."""
    clip_id = ids(made)[0]
    target = tmp_path / "clip.mp4"
    tool = ffmpeg_binary.find_ffmpeg()
    encoder.transcode(made.source / f"{clip_id}.avi", target, encoder.EncodeSettings(), tool, 60)
    blocks: list[np.ndarray] = []
    motion = decoder.extract(target, lambda block: blocks.append(block.copy()))
    vectors = np.concatenate(blocks)
    speed = np.hypot(vectors["motion_x"].astype(float), vectors["motion_y"]) / motion.motion_scale
    boxes = np.array(json.loads(made.annotations.read_text())[clip_id]["tubes"][0]["boxes_xywh"])
    x, y, w, h = boxes[vectors["frame"]].T
    inside = (np.abs(vectors["x"] - x - w / 2) < w / 2 + 16) & (np.abs(vectors["y"] - y - h / 2) < h / 2 + 16)
    assert inside[speed > 1].sum() > 50
    assert inside[speed > 1].mean() > 0.9
    assert (~inside & (speed > 0)).sum() > 100
