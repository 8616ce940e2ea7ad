"""Stores, texts and links from strangers: nothing runs, crashes or leaks, and nothing outside is touched."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numcodecs.pickles
import numpy as np
import pytest
from packaging.requirements import Requirement

import pipelines.cli.app
from data_specs.annotation_files import read_annotations
from data_specs.annotations import AnnotationError
from data_specs.arrays import open_array
from data_specs.documents import parse_json
from data_specs.records import MotionRow, read_records
from data_specs.schema import tables
from data_specs.stored import Damaged, StoreError, open_store, zarr_store
from data_specs.text import csv_cell, json_text, printable
from pipelines.cli.tables import box_rows
from pipelines.errors import RunError
from pipelines.report.clip_reader import ClipReader
from pipelines.report.drawing import write_clip_video
from pipelines.runs.cleanup import clear
from pipelines.runs.options import Options
from pipelines.runs.source_index import SourceIndex
from pipelines.store.summary import summarise
from pipelines.store.verify import Fault, verify
from tests.conftest import run_stages
from tests.places import ROOT
from tests.support import (
    hostile_chunks,  # noqa: F401  enters its stores
    hostile_corpus,
)
from tests.support.hostile_stores import ESCAPES, PRECIOUS, STORES
from tests.support.mutated_chunks import CODECS
from tests.support.soak import record
from training.clips import read_clips
from training.evaluation import scores_of, write_confusion
from training.options import Failed
from training.shards import FrameReader

MOVES_THE_CURSOR = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


@pytest.fixture
def options(synth_data: Path, synth_store: Path, tmp_path: Path) -> Options:
    """What a copy of the synthetic store was made from, to do with as one likes; a folder beside it is precious."""
    for name in (synth_store.name, f"{synth_store.name}.work"):
        shutil.copytree(synth_store.parent / name, tmp_path / name)
    for name in ("film.mkv.part", "h264/film.mkv.part", "film#1"):
        (tmp_path / PRECIOUS / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / PRECIOUS / name).write_text("precious")
    store = str(tmp_path / synth_store.name)
    return Options(str(synth_data / "UCF-101"), store, str(synth_data / "ucfTrainTestlist"), "smoke")


def spoilt(options: Options, name: str) -> str:
    STORES[name](Path(options.store))
    return options.store


def refusal(work: Callable[[], object]) -> str:
    """What a refusal says; "" where nothing was refused."""
    try:
        work()
    except (StoreError, RunError) as error:
        return str(error)
    return ""


def precious(options: Options) -> dict[str, bytes]:
    folder = Path(options.store).parent / PRECIOUS
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["pickles by consolidated metadata", "pickles by .zarray"])
def test_no_metadata_makes_anything_be_unpickled(options: Options, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numcodecs.pickles, "ALLOW_UNSAFE_PICKLE_DECODE", True)  # as before numcodecs 0.16.6
    store = spoilt(options, name)
    for look in (lambda: open_store(store).ids, lambda: summarise(store), lambda: verify(store)):
        assert "\n" not in refusal(look)
    assert (Path(store).parent / PRECIOUS).is_dir()
    assert not (Path(store).parent / PRECIOUS / "pwned").exists()


def test_only_a_numcodecs_that_refuses_pickles_is_installed() -> None:
    assert not numcodecs.pickles.ALLOW_UNSAFE_PICKLE_DECODE
    wanted = map(Requirement, tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])
    (numcodecs_wanted,) = (one for one in wanted if one.name == "numcodecs")
    assert "0.16.6" in numcodecs_wanted.specifier
    assert "0.16.5" not in numcodecs_wanted.specifier


def decode_mutated(count: int, fill: int) -> dict[str, Any]:
    """What becomes of mutated chunks in a process whose memory is filled with ``fill``."""
    command = [sys.executable, "-m", "tests.support.mutated_chunks", "--count", str(count), "--fill", str(fill)]
    memory = {"MALLOC_PERTURB_": str(fill), "MALLOC_MMAP_THRESHOLD_": str(1 << 30)}
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=1800, cwd=ROOT, env={**os.environ, **memory}
    )
    assert ended.returncode == 0, f"a decoder left its memory: {ended.returncode} {ended.stderr[-300:]}"
    return dict(json.loads(ended.stdout))


def test_mutated_chunks_decode_in_bounds_and_to_what_is_in_them() -> None:
    found = decode_mutated(40, 85)
    assert set(found) == set(CODECS)
    assert found == decode_mutated(40, 170)
    assert all(counts["decoded"] > 4 for codec, counts in found.items() if codec != "crc32c")
    assert all(counts["refused"] > 4 for counts in found.values())


@pytest.mark.soak
def test_ten_thousand_mutated_chunks_of_each_codec_decode_in_bounds_and_to_what_is_in_them() -> None:
    found = decode_mutated(10_000, 85)
    assert set(found) == set(CODECS)
    assert found == decode_mutated(10_000, 170)
    decoded = {codec: [counts["decoded"], counts["refused"]] for codec, counts in found.items()}
    record("mutated chunks of each codec", chunks=10_000, decoded_and_refused=decoded)


FRAMES = [
    "a Blosc chunk of 40 bytes", "a Blosc chunk that is a copy of the heap", "a Blosc chunk of 4 GB",
    "a JPEG of 900 Mpx", "a progressive JPEG", "raw frames that are cut", "a shard's a frame that is a bomb",
    "a shard's offsets of 2**62", "a shard's lengths of 2**62", "a shard's a frame of nothing",
    "a shard's offsets behind the end",
]  # fmt: skip


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_that_is_not_what_the_schema_says_reaches_no_batch_and_no_picture(options: Options, name: str) -> None:
    store = spoilt(options, name)
    clips = read_clips(store, "full", 1, "train")
    reader = FrameReader(clips)
    first = np.flatnonzero(clips.rows < 4)[:1]
    out = np.empty((1, clips.size, clips.size, 3), np.uint8)
    tracemalloc.start()
    try:
        with pytest.raises(Failed, match="mocrop verify") as failed:
            reader.read(first, np.zeros(1, np.int64), out)
        with pytest.raises((ValueError, RuntimeError)):
            _ = open_store(store).view("full").array("frames")[int(clips.rows[first[0]]), 0]
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()
    assert "\n" not in str(failed.value)


BOUNDS = ["3e8 rows without chunks", "2e7 chunks", "1e30 rows", "no rows", "id: a bomb of 200 MB",
          "label: a bomb of 200 MB",
          "id/c.0: 20 GB of nothing", "zarr.json: 20 GB of nothing", "id/zarr.json: 20 GB of nothing", "1e12 slots",
          "shards of 1e12 clips", "a grid of 1e9 cells", "1e5 class names", "root: only spaces"]  # fmt: skip


@pytest.mark.parametrize("name", BOUNDS)
def test_sizes_are_bounded_before_any_work_in_one_line(options: Options, name: str) -> None:
    store = spoilt(options, name)
    tracemalloc.start()
    try:
        said = refusal(lambda: (open_store(store).table("label"), open_store(store).ids))
        assert tracemalloc.get_traced_memory()[1] < 100_000_000
    finally:
        tracemalloc.stop()
    assert said
    assert "\n" not in said
    assert len(said) < 1500


VECTORS = ["1e10 vectors without chunks", "1e10 vectors in shards of nothing", "vectors of 2**62", "vectors below zero",
           "vectors of another fingerprint", "vectors of more clips", "vectors of no clips", "vectors without a unit",
           "vectors' offsets of 2**62", "vectors' lengths of 3", "vectors' a frame that is a bomb",
           "a Blosc chunk of vectors, 98 bytes"]  # fmt: skip


@pytest.mark.parametrize("name", VECTORS)
def test_vectors_that_are_not_there_are_not_counted_on(options: Options, name: str) -> None:
    store = spoilt(options, name)
    reader = ClipReader(open_store(store))
    with pytest.raises((StoreError, KeyError)) as refused:
        reader.fast_vectors(0)
    assert "\n" not in str(refused.value)
    assert verify(store)


def test_a_video_of_two_thousand_million_frames_is_refused(options: Options) -> None:
    reader = ClipReader(open_store(options.store))
    shutil.rmtree(f"{options.store}.work")
    reader.tables["num_frames"][0] = 2_000_000_000
    with pytest.raises(StoreError, match=r"2000000000 frames without its H.264 file are more than"):
        write_clip_video(reader, reader.ids[0], ["mocrop"], Path(options.store).parent / "clip.avi")


RECORDS = ["objects: /dev/zero", "objects: ../../../../../../etc/shadow", f"objects: motion/../../{PRECIOUS}/film.mkv",
           "1e12 frames in a record", "frames below zero in a record", "sizes of 1e12 in a record",
           "notes that are a number",
           "key frames below zero", "sizes of 1e30 bytes", "clips that are a list"]  # fmt: skip


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_that_says_what_none_may_say_counts_as_damaged(options: Options, name: str) -> None:
    store = spoilt(options, name)
    damaged: list[str] = []
    assert 0 not in read_records(zarr_store(store, read_only=True), MotionRow, None, range(3), damaged)
    assert damaged == ["progress/motion/00000"]
    assert summarise(store).pending == 4
    assert {fault.where for fault in verify(store)} >= {"progress/motion/00000"}


@pytest.mark.parametrize("name", ["a box out of its frame", "100 indices for 8 slots", "clips of another store"])
def test_a_record_that_does_not_fit_its_store_counts_as_damaged(options: Options, name: str) -> None:
    store = spoilt(options, name)
    assert summarise(store).pending == 4
    assert verify(store)
    summary, done = run_stages(options)
    assert (summary.done, summary.pending) == (12, 0)
    assert done


@pytest.mark.parametrize("key", ["id/c.0", "progress/boxes/mocrop/00000/zarr.json", "views/full/frames/c.0.0.0.0.0"])
@pytest.mark.parametrize("what", ["a FIFO", "a link to /dev/zero", "a link to itself"])
def test_what_is_no_regular_file_is_not_waited_for(options: Options, key: str, what: str) -> None:
    store = spoilt(options, f"{key}: {what}")
    if key.startswith("views"):
        clips = read_clips(store, "full", 1, "train")
        reader, out = FrameReader(clips), np.empty((1, clips.size, clips.size, 3), np.uint8)
        with pytest.raises(Failed, match=r"its shard is missing|Too many levels of symbolic links"):
            reader.read(np.flatnonzero(clips.rows < 4)[:1], np.zeros(1, np.int64), out)
    assert any(fault.where.startswith(key.split("/c.")[0].removesuffix("/zarr.json")) for fault in verify(store))


def test_a_source_that_is_a_fifo_has_no_fingerprint(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.avi")
    assert SourceIndex(str(tmp_path), str(tmp_path / "work")).fingerprints(["a.avi"]) == {}


LINKS = ["motion is a link", "progress is a link", "views is a link", "views/full/frames is a link",
         "motion/00000 is a link", "work folder: h264 is a link", "work folder: stores is a link",
         "work folder: h264/Class is a link", "the work folder is a link"]  # fmt: skip


@pytest.mark.parametrize("name", LINKS)
def test_nothing_is_written_swept_or_removed_through_a_link(options: Options, name: str) -> None:
    store = spoilt(options, name)
    before = precious(options)
    assert "film.mkv.part" in before
    for path in (Path(f"{store}.work/h264"), Path(store, "motion")):
        if not path.is_symlink() and path.is_dir() and not path.parent.is_symlink():
            (path / "own.part").write_text("")
    said = [refusal(lambda: clear(store))]
    wider = replace(options, retry_quarantined=True, recipe=with_another_view())
    for path in Path(store).rglob("zarr.json"):  # so that all is to be done again
        if re.search(r"progress/(motion|clips)/.*\d$", str(path.parent)) and not path.is_symlink():
            path.write_text("{}") if str(path.resolve()).startswith(f"{store}/") else None
    said.append(refusal(lambda: run_stages(wider)))
    assert any("is a symbolic link" in one for one in said)
    assert all("is a symbolic link" in one for one in said if one)
    assert precious(options) == before


def with_another_view() -> Any:
    from data_specs.recipes import load_recipe

    smoke = load_recipe("smoke")
    return smoke.model_copy(update={"views": (*smoke.views, smoke.views[-1].model_copy(update={"name": "again"}))})


def test_a_store_that_its_user_names_by_a_link_is_used(options: Options, tmp_path: Path) -> None:
    link = tmp_path / "link.zarr"
    link.symlink_to(options.store)
    assert summarise(str(link)).done == 12
    shutil.rmtree(Path(options.store, "progress/clips/full/00001"))
    summary, done = run_stages(replace(options, store=str(link)))
    assert (summary.done, done) == (12, ["clips"])


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """The command line in this process: its status, and all that it writes."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["mocrop", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            pipelines.cli.app.main()
        written = capsys.readouterr()
        return int(ended.value.code or 0), written.out + written.err

    return run


TEXTS = ["reasons with escapes", "notes with escapes", "class names with escapes", "a data set with escapes",
         "a format in words", "a view with escapes", "a key with escapes", "ids with escapes",
         "a lock of a path"]  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_no_text_of_a_store_moves_the_cursor_of_a_terminal(
    options: Options, name: str, command: Callable[..., tuple[int, str]]
) -> None:
    store = spoilt(options, name)
    pages = Path(store).parent / "page.html"
    report = [["report", "--clips", 0, "--out", pages]] if name == TEXTS[0] else []
    for arguments in (["status"], ["status", "--json"], ["boxes"], ["boxes", "--csv"], ["verify"], ["gc"], *report):
        status, written = command(arguments[0], store, *arguments[1:])
        assert status in (0, 1)
        assert written.strip()
        assert not MOVES_THE_CURSOR.search(written), (arguments, MOVES_THE_CURSOR.search(written))
        assert "Traceback" not in written


def test_text_is_shown_escaped_and_stays_itself_in_json() -> None:
    assert printable("a\x1b[2J\u202eb\u2066\ud800\n") == "a\\x1b[2J\\u202eb\\u2066\\ud800\\x0a"
    assert printable("Ünïcode 走る") == "Ünïcode 走る"
    text = json_text({"id": ESCAPES, "more": "ü"})
    assert not MOVES_THE_CURSOR.search(text)
    assert json.loads(text) == {"id": ESCAPES, "more": "ü"}
    assert "ü" in text


def test_no_csv_cell_begins_a_formula(options: Options, command: Callable[..., tuple[int, str]]) -> None:
    assert [csv_cell(value) for value in ("=1+1", "@A1", "+ MoCrop", " -x", "\t=1", "+1.5", "-", "a=b", -3)] == [
        "'=1+1", "'@A1", "'+ MoCrop", "' -x", "\\x09=1", "+1.5", "-", "a=b", -3,
    ]  # fmt: skip
    status, written = command("boxes", spoilt(options, "ids with formulas"), "--csv")
    assert status == 0
    assert written.count("'=cmd") == 48
    assert not re.search(r"(^|,)[=@]", written, re.MULTILINE)


def test_a_class_that_looks_like_a_formula_of_tex_is_drawn_as_text(tmp_path: Path) -> None:
    scores = scores_of(np.eye(2, dtype=np.float32), np.arange(2), (r"$\frac{$", "=1+1"))
    write_confusion(tmp_path / "a.confusion", scores, r"arch, view $\frac{$")
    assert (tmp_path / "a.confusion.png").stat().st_size > 1000
    assert (tmp_path / "a.confusion.csv").read_text().splitlines()[2].startswith("'=1+1")


LINES = ["root: nested 200,000 times", "root: nested 200,000 times, closed", "root: objects nested 900 times",
         "root: a number of 5,000 digits", "root: not UTF-8", "root: NaN", "root: lone surrogates", "root: a string",
         "id: nested 200,000 times", "views/mocrop: nested 200,000 times", "class names that are a number",
         "class names of numbers", "a data set that is null", "software that is a list", "a recipe that is null",
         "states that are unknown", "sources that are unknown", "labels that have no class", "labels below zero",
         "frames of a size of 2e9", "a number of frames below zero", "2e9 frames", "boxes out of their frames",
         "boxes below zero", "frames far below zero", "scores of infinity", "params of other types", "no params",
         "ids that lead out", "ids that are alike", "one id too few", "a codec that is not ours",
         "frames in shards in shards", "big-endian numbers", "a revision of 1e400"]  # fmt: skip


@pytest.mark.parametrize("name", LINES)
def test_what_a_store_says_wrongly_is_one_line(options: Options, name: str) -> None:
    store = spoilt(options, name)

    def looks() -> Iterator[Callable[[], object]]:
        yield lambda: box_rows(open_store(store))
        yield lambda: read_clips(store, "mocrop", 1, "train")
        yield lambda: open_store(store).view("full").array("frames")[0, 0]
        yield lambda: open_store(store).view("full").table("frame_index")
        yield lambda: [open_store(store).table(spec.path) for spec in tables(12)]

    said = list(map(refusal, looks()))
    assert any(said)
    assert not any(MOVES_THE_CURSOR.search(one) or "\n" in one or len(one) > 1500 for one in said)
    faults: list[Fault] = []
    told = refusal(lambda: faults.extend(verify(store)))
    assert bool(told) != bool(faults)
    assert "\n" not in told


@pytest.mark.parametrize("text", ["[" * 200_000, "[" * 200_000 + "]" * 200_000, '{"a": NaN}', "1" + "0" * 5000, "{"])
def test_json_that_is_none_is_a_value_error_in_one_line(text: str) -> None:
    for given in (text, text.encode()):
        with pytest.raises(ValueError, match=r"^[^\n]+$"):
            parse_json(given, 1 << 20)
    with pytest.raises(ValueError, match=r"5 bytes of JSON, more than 4"):
        parse_json("12345", 4)


def test_annotations_of_frames_that_no_clip_has_are_refused(tmp_path: Path) -> None:
    tube = {"start_frame": 10**30, "end_frame": 10**30 + 1, "boxes_xywh": [[0, 0, 1, 1]]}
    (tmp_path / "a.json").write_text(json.dumps({"a": {"num_frames": 3, "tubes": [tube]}}))
    with pytest.raises(AnnotationError, match="less than or equal to"):
        read_annotations(tmp_path / "a.json")


def test_an_array_that_lacks_its_description_is_damaged_and_not_guessed(options: Options) -> None:
    Path(options.store, "label/zarr.json").unlink()
    with pytest.raises(Damaged, match=r"label/zarr.json is missing"):
        open_store(options.store).table("label")
    with pytest.raises(FileNotFoundError):
        open_array(zarr_store(options.store, read_only=True), tables(12)[1])


@pytest.mark.soak
def test_every_command_on_every_hostile_store_ends_in_order(
    synth_data: Path, synth_store: Path, tmp_path: Path
) -> None:
    from training import train as training

    run = tmp_path / "run"
    flags = ["--arch", "test_resnet", "--no-pretrained", "--input-size", "32", "--cpu", "--split", "1", "-b", "4"]
    places = ["--epochs", "1", "--store", str(synth_store), "--output-dir", str(run)]
    assert training.main([*flags, *places]) == 0
    lists = synth_data / "ucfTrainTestlist"
    arguments = [synth_store, synth_data / "UCF-101", lists, run / "model.pt", tmp_path / "cases"]
    command = [sys.executable, "-m", hostile_corpus.__name__, *map(str, arguments), "--out", str(tmp_path / "out.json")]
    subprocess.run(command, cwd=ROOT, check=True, timeout=7200)
    ended = json.loads((tmp_path / "out.json").read_text())
    assert [f"{case['case']} | {case['command']}: {case['problem']}" for case in ended if case["problem"]] == []
    assert len(ended) >= 500
    assert {case["command"] for case in ended} >= set(hostile_corpus.COMMANDS)
    statuses = [case["status"] for case in ended]
    record(
        "hostile stores, checkpoints and texts",
        cases=len(ended),
        stores=len(STORES),
        commands=len({case["command"] for case in ended}),
        statuses={str(status): statuses.count(status) for status in sorted(set(statuses))},
        most_megabytes=max(case["megabytes"] for case in ended),
        most_seconds=max(case["seconds"] for case in ended),
    )
