"""Which files of a folder are clips, and that everything else is counted; each suffix is one that can be read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from data_specs.datasets import DatasetError, read_dataset
from data_specs.discovery import VIDEO_SUFFIXES
from data_specs.recipes import parse_recipe
from pipelines.runs.options import Options
from pipelines.store.summary import Summary
from tests.integration.test_run import ffmpeg
from tests.support.saboteurs import SMALL
from tests.unit.data_specs.test_datasets import make

HIDDEN = [".ipynb_checkpoints/x.mp4", ".Trash-1000/files/x.mp4", "a/.x.mp4", "a/._1.avi", "a/.cache/x.mp4"]
SYSTEM = [
    "$RECYCLE.BIN/x.mp4", "@eaDir/x.mp4", "a/@eaDir/x.mp4", "System Volume Information/x.mp4", "__MACOSX/a/x.mp4",
    "lost+found/x.mp4", "a/Thumbs.db",
]  # fmt: skip
MAKES = {
    ".avi": "-c:v mpeg4", ".divx": "-c:v mpeg4 -f avi", ".mp4": "", ".m4v": "-f mp4", ".mov": "", ".qt": "-f mov",
    ".f4v": "-f f4v", ".3gp": "", ".3g2": "", ".mkv": "", ".webm": "-c:v libvpx", ".flv": "-c:v flv", ".wmv": "",
    ".asf": "-c:v wmv2", ".mpg": "", ".mpeg": "", ".mpe": "-f mpeg", ".vob": "", ".mod": "-c:v mpeg2video -f mpeg",
    ".m1v": "", ".m2v": "", ".ts": "", ".mts": "-f mpegts", ".m2ts": "", ".m2t": "-f mpegts", ".tod": "-f mpegts",
    ".mxf": "", ".dv": "-s 720x576 -pix_fmt yuv420p", ".ogv": "-c:v libtheora", ".ogm": "-c:v libtheora -f ogg",
    ".gif": "", ".ivf": "-c:v libvpx", ".h264": "", ".264": "-f h264", ".h265": "-c:v libx265 -f hevc",
    ".265": "-c:v libx265 -f hevc", ".hevc": "-c:v libx265",
}  # fmt: skip
"""ffmpeg's options that make a video with each suffix."""


def passed_over(source: Path) -> dict[str, int]:
    return {one.kind: one.count for one in read_dataset(source).passed_over}


def test_hidden_files_and_folders_of_systems_are_no_clips_and_no_classes(tmp_path: Path) -> None:
    dataset = read_dataset(make(tmp_path, "a/1.mp4", *HIDDEN, *SYSTEM))
    assert ([clip.id for clip in dataset.clips], dataset.class_names) == (["a/1"], ("a",))
    assert list(map(str, dataset.passed_over)) == [
        "5 passed over, hidden: '.Trash-1000', '.ipynb_checkpoints', 'a/._1.avi', …",
        "7 passed over, made by an operating system: '$RECYCLE.BIN', '@eaDir', 'System Volume Information', …",
    ]


def test_what_is_no_video_is_counted_with_examples(tmp_path: Path) -> None:
    source = make(tmp_path / "source", "a/1.mp4", "a/notes.txt", "a/2.xyz", "b/readme", "list.txt", "c/d/e.json")
    (source / "empty").mkdir()
    assert list(map(str, read_dataset(source).passed_over)) == [
        "5 passed over, no known video suffix: 'a/2.xyz', 'a/notes.txt', 'b/readme', …",
        "3 passed over, class folder without a video: 'b', 'c', 'empty'",
    ]


def test_clips_lie_at_any_depth_below_their_class(tmp_path: Path) -> None:
    dataset = read_dataset(make(tmp_path, "a/1.mp4", "a/x/2.mp4", "b/x/y z/3.mp4"))
    assert [(clip.id, clip.label) for clip in dataset.clips] == [("a/1", 0), ("a/x/2", 0), ("b/x/y z/3", 1)]


def test_the_stores_and_work_folders_of_mocrop_are_no_classes(tmp_path: Path) -> None:
    source = make(tmp_path, "a/1.mp4", "a.zarr/zarr.json", "a.zarr/progress/zarr.json", "a.zarr/x.mp4")
    make(source, "a.zarr.work/h264/a/1-0.mp4", "a.zarr.work/stores/0.json", "h264/a/1-0.mp4", "stores/0.json")
    assert [clip.id for clip in read_dataset(source).clips] == ["a/1"]
    assert passed_over(source) == {"own": 4}


def test_links_to_folders_are_followed_in_the_place_of_a_class_and_inside_the_source_alone(tmp_path: Path) -> None:
    source, outside = make(tmp_path / "source", "a/1.mp4", "a/x/2.mp4"), make(tmp_path / "outside", "b/3.mp4")
    links = {"alias": "a/x", "out": str(outside), "self": "self", "round": ".", "a/up": "..", "a/x/out": str(outside)}
    for name, target in links.items():
        (source / name).symlink_to(target)
    dataset = read_dataset(source)
    assert [clip.id for clip in dataset.clips] == ["a/1", "a/x/2", "alias/2"]
    assert list(map(str, dataset.passed_over)) == [
        "1 passed over, no known video suffix: 'self'",
        "5 passed over, link to a folder, not followed: 'a/up', 'a/x/out', 'alias/out', …",
    ]


@contextmanager
def without_rights(user: int = 65534) -> Iterator[None]:
    """Root may read everything: go on as another user, as far as files are concerned."""
    if os.geteuid():
        yield
        return
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(0)


def test_folders_that_cannot_be_read_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make(tmp_path / "source", "a/1.mp4", "a/closed/2.mp4", "b/3.mp4"))
    closed = [Path("a/closed"), Path("b")]
    for folder in closed:
        folder.chmod(0)
    try:
        with without_rights():
            dataset = read_dataset(".")
            with pytest.raises(DatasetError, match="source 'b': Permission denied; give a folder that can be read"):
                read_dataset("b")
    finally:
        for folder in closed:
            folder.chmod(0o755)
    assert [clip.id for clip in dataset.clips] == ["a/1"]
    assert list(map(str, dataset.passed_over)) == ["2 passed over, cannot be read: 'a/closed', 'b'"]


def test_videos_beside_the_folder_ucf_101_are_counted(tmp_path: Path) -> None:
    dataset = read_dataset(make(tmp_path, "UCF-101/a/1.mp4", "UCF-101/a/notes.txt", "other/b/2.mp4", "lists/x.txt"))
    assert [clip.id for clip in dataset.clips] == ["a/1"]
    assert list(map(str, dataset.passed_over)) == [
        "1 passed over, no known video suffix: 'a/notes.txt'",
        "1 passed over, beside the folder UCF-101: 'other'",
    ]


def test_a_source_without_a_video_says_what_was_passed_over(tmp_path: Path) -> None:
    (make(tmp_path / "source", "a/1.xyz") / "link").symlink_to(make(tmp_path / "outside", "1.mp4"))
    with pytest.raises(DatasetError, match=r"holds no video.*suffix: 'a/1\.xyz'; .*not followed: 'link'; .*video: 'a'"):
        read_dataset(tmp_path / "source")


def test_a_video_with_any_suffix_is_read_from_beginning_to_end(
    tmp_path: Path, do_run: Callable[[Options], tuple[Summary, list[str]]]
) -> None:
    assert MAKES.keys() == VIDEO_SUFFIXES
    source = tmp_path / "videos"
    (source / "a").mkdir(parents=True)
    for suffix, options in MAKES.items():
        size = "352x288" if suffix in (".3gp", ".3g2") else "64x48"
        moving = f"-f lavfi -i testsrc2=s={size}:r=25:d=0.2 -threads 1"
        ffmpeg(f"{moving} {options} {source}/a/{suffix[1:]}{suffix.upper() if suffix == '.mts' else suffix}")
    recipe = parse_recipe({**SMALL.model_dump(mode="json"), "shard_clips": 64}, "any")
    summary, _ = do_run(Options(str(source), str(tmp_path / "s.zarr"), recipe=recipe))
    assert summary.quarantined == {}
    assert summary.done == len(VIDEO_SUFFIXES)
