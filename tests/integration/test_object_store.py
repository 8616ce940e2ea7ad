"""Stores on S3: the whole chain by the real command, the same bytes as on a disk, failures as one line."""

from __future__ import annotations

import csv
import gc
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest

from data_specs import schema
from data_specs.locations import SAFE, shown, split_url
from data_specs.recipes import Recipe, parse_recipe
from data_specs.remote import open_remote
from data_specs.stored import StoreError, hash_objects, open_store, zarr_store
from pipelines.cli import app
from pipelines.cli.tables import box_rows, export_npy
from pipelines.errors import RunError
from pipelines.runs.opening import open_run
from pipelines.runs.options import Options
from pipelines.stages.shard_task import process_shard
from pipelines.store.lock import LOCK, StoreLocked, locked
from pipelines.store.verify import verify
from pipelines.store.writer import exchange, group_document
from tests.benchmarks.measuring import peak_mb
from tests.conftest import run_stages
from tests.integration import test_store
from tests.support.listening import is_loopback, watch
from tests.support.object_store import KEY, SECRET, Fault, contents, environment, faulty, make_bucket, s3_server
from training import train as training
from training.clips import read_clips
from training.options import Failed
from training.shard_sources import GAP, SPAN, Request, joined
from training.shards import FrameReader

MOCROP = [sys.executable, "-c", "from pipelines.cli.app import main; main()"]
TINY = {"name": "tiny", "shard_clips": 2, "transcode": {"preset": "ultrafast"}, "frames": {"slots": 2, "size": 16}}
REQUESTS = 30  # of a shard of one view
LARGE, FRAMES = 160 << 20, "views/mocrop/frames/c.0.0.0.0.0"  # more than a document may have, less than any object
RAW = {**TINY, "name": "raw", "frames": {"slots": 2, "size": 16, "codec": {"name": "raw"}}}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A real S3 server with a bucket."""
    with s3_server() as address:
        make_bucket(address, "bucket")
        yield address


@pytest.fixture
def s3(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The server, with this process's environment set for it."""
    for name, value in {**environment(server), "MOCROP_RETRY_SECONDS": "120"}.items():
        monkeypatch.setenv(name, value)
    return server


@dataclass(frozen=True, slots=True)
class Command:
    """A run of ``mocrop preprocess``: its store, one like it on a disk, what it printed, its Prefect home and what it
    listened on."""

    store: str
    twin: Path
    said: str
    home: Path
    listened: set[str]


@pytest.fixture(scope="module")
def command(server: str, synth_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """The real command, with Prefect and two Dask workers, from the synthetic videos to a store on S3."""
    folder = tmp_path_factory.mktemp("s3")
    store, said, home = "s3://bucket/runs of mine/ü%20.zarr", folder / "said.txt", folder / "prefect"
    words = ["--source", str(synth_data / "UCF-101"), "--splits", str(synth_data / "ucfTrainTestlist")]
    words += [
        "--recipe",
        "smoke",
        "--store",
        store,
        "--work-dir",
        str(folder / "work"),
        "--workers",
        "2",
        "--verbose",
        "--limit",
        "5",
    ]
    known = {**os.environ, **environment(server), "PREFECT_HOME": str(home)}
    known.pop("PREFECT_API_URL", None)
    with said.open("w") as out:
        process = subprocess.Popen(
            [*MOCROP, "preprocess", *words], cwd=folder, env=known, stdout=out, stderr=out, text=True
        )
        listened = watch(process, lambda: False)
    assert process.returncode == 0, said.read_text()
    twin = Options(words[1], str(folder / "twin.zarr"), words[3], "smoke", limit=5)
    run_stages(twin)
    return Command(store, Path(twin.store), said.read_text(), home, listened)


def test_the_store_on_s3_has_the_same_bytes_as_one_on_a_disk(server: str, command: Command) -> None:
    there, here = contents(server, command.store), test_store.contents(command.twin)
    assert there.keys() == here.keys()
    assert [key for key in here if there[key] != here[key]] == []
    assert len(here) > 60


@pytest.mark.usefixtures("s3")
def test_status_verify_boxes_and_export_read_from_s3(
    command: Command,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert said(monkeypatch, capsys, "status", command.store, "--json")[1].startswith('{\n "store": "s3://bucket/')
    assert json.loads(said(monkeypatch, capsys, "status", command.store, "--json")[1])["done"] == 5
    assert said(monkeypatch, capsys, "verify", command.store)[:2] == (0, "OK: no problems found\n")
    assert box_rows(open_store(command.store)) == box_rows(open_store(command.twin))
    assert said(monkeypatch, capsys, "boxes", command.store, "--csv")[1].count("\n") == 5 * 4 + 1
    there, here = (
        export_npy(open_store(store), tmp_path / name) for name, store in (("a", command.store), ("b", command.twin))
    )
    assert [path.read_bytes() for path in there] == [path.read_bytes() for path in here]
    assert len(here) == 5


@pytest.mark.usefixtures("s3")
def test_frames_for_training_are_read_from_s3(command: Command) -> None:
    found = []
    for store in (command.store, str(command.twin)):
        clips = read_clips(store, "mocrop", 1, "train")
        positions = np.repeat(np.arange(len(clips)), 2)
        frames = np.empty((len(positions), clips.size, clips.size, 3), np.uint8)
        FrameReader(clips).read(positions, np.tile([0, 1], len(clips)), frames)
        found.append(frames)
    assert found[0].std() > 10
    assert (found[0] == found[1]).all()


def test_the_frames_of_a_clip_are_one_request(s3: str, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    with faulty(s3, lambda *_: "") as (address, proxy):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        clips = read_clips(command.store, "mocrop", 1, "train")
        reader, frames = FrameReader(clips), np.empty((2, clips.size, clips.size, 3), np.uint8)
        for _ in range(2):  # the second time, the indexes are known
            proxy.answers.clear()
            for position in range(len(clips)):
                reader.read(np.full(2, position), np.array([0, 1]), frames)
        assert [method for method, _, _ in proxy.answers] == ["GET"] * len(clips) != []


def test_ranges_that_lie_close_together_are_asked_for_as_one() -> None:
    requests: list[Request] = [
        ("b", 30, 40, ("1",)), ("a", 0, 10, ("1",)), ("b", 0, 10, ("1",)), ("b", GAP + 40, GAP + 50, ("1",)),
        ("b", 2 * GAP + 51, 2 * GAP + 60, ("1",)), ("a", 12, 20, ("2",)),
    ]  # fmt: skip
    assert joined(requests) == [
        (("a", 0, 10, ("1",)), [1]), (("a", 12, 20, ("2",)), [5]),
        (("b", 0, GAP + 50, ("1",)), [2, 0, 3]), (("b", 2 * GAP + 51, 2 * GAP + 60, ("1",)), [4]),
    ]  # fmt: skip
    far: list[Request] = [("a", start, start + GAP, ("1",)) for start in range(0, 2 * SPAN, GAP)]
    assert [stop - start for (_, start, stop, _), _ in joined(far)] == [SPAN, SPAN]


@pytest.mark.usefixtures("s3")
def test_a_shard_that_is_replaced_gives_its_own_frames(options: Options, synth_data: Path) -> None:
    """As a run does that repairs a quarantined clip: frames of the others lie elsewhere then, and raw ones all fit."""
    import boto3

    recipe = parse_recipe({**RAW, "views": [{"kind": "full"}]}, "raw")
    run_stages(replace(options, recipe=recipe, splits=str(synth_data / "ucfTrainTestlist")))
    clips = read_clips(options.store, "full", 1, "train")
    reader = FrameReader(clips)
    positions, slots = np.repeat(np.arange(len(clips)), 2), np.tile([0, 1], len(clips))
    first, second = (np.empty((len(positions), clips.size, clips.size, 3), np.uint8) for _ in range(2))
    reader.read(positions, slots, first)
    client = boto3.client("s3")
    name = {
        "Bucket": "bucket",
        "Key": f"{options.store.removeprefix('s3://bucket/')}/views/full/frames/c.{clips.rows[0] // 2}.0.0.0.0",
    }
    old = client.get_object(**name)["Body"].read()
    frame, index = 16 * 16 * 3 + 4, np.frombuffer(old[-(16 * 4 + 4) : -4], "<u8").reshape(-1, 2).copy()
    index[:, 0] += frame
    ending = index.tobytes() + google_crc32c.value(index.tobytes()).to_bytes(4, "little")
    client.put_object(**name, Body=old[:frame] + old[: -len(ending)] + ending)
    reader.read(positions, slots, second)
    assert first.std() > 10
    assert (first == second).all()
    client.delete_object(**name)
    with pytest.raises(Failed, match="its shard is missing"):
        reader.read(positions, slots, second)


def train(store: str, out: Path) -> int:
    """The exit status of a small training of one epoch on a CPU."""
    small = ["--arch", "test_resnet", "--no-pretrained", "--input-size", "32", "--cpu", "--split", "1"]
    return training.main(["--store", store, "--output-dir", str(out), *small, "-b", "2", "--epochs", "1"])


def test_a_training_on_s3_sends_failed_requests_again_and_ends_in_one_line_when_all_fail(
    s3: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def now_and_then(number: int, method: str) -> Fault:
        return (("error", "reset", "cut")[number // 3 % 3]) if number % 3 == 0 else ""  # type: ignore[return-value]

    with faulty(s3, now_and_then) as (address, proxy):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        assert train(command.store, tmp_path / "steady") == 0
        assert {kind for kind, _ in proxy.failed} == {"error", "reset", "cut"}
    assert train(str(command.twin), tmp_path / "twin") == 0
    here, there = (list(csv.DictReader((tmp_path / name / "metrics.csv").open())) for name in ("twin", "steady"))
    assert len(here) == 1
    assert [row["train_loss"] for row in here] == [row["train_loss"] for row in there]
    assert [row["test_loss"] for row in here] == [row["test_loss"] for row in there]
    capsys.readouterr()

    monkeypatch.setenv("MOCROP_RETRY_SECONDS", "0.5")
    monkeypatch.setattr("data_specs.remote.PAUSES", (0.01,))

    def once_frames_were_read(number: int, method: str) -> Fault:
        read = any("/frames/c." in path for _, path, _ in proxy.answers)
        return "error" if read else ""

    with faulty(s3, once_frames_were_read) as (address, proxy):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        assert train(command.store, tmp_path / "failing") == 1
        assert proxy.failed
    error = capsys.readouterr().err
    assert error.startswith(f"error: store {command.store!r}: it answers 500")
    assert error.count("\n") == 1


@pytest.mark.usefixtures("s3")
def test_the_report_and_the_dry_run_read_from_s3(
    command: Command,
    synth_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    status, out, _ = said(monkeypatch, capsys, "report", command.store, "--out", str(tmp_path / "r.html"), "--json")
    assert (status, json.loads(out)["clips"]) == (0, 5)
    assert SECRET not in (tmp_path / "r.html").read_text(encoding="utf-8")
    words = ["--source", str(synth_data / "UCF-101"), "--splits", str(synth_data / "ucfTrainTestlist"), "--limit", "5"]
    words += ["--work-dir", str(tmp_path), "--recipe", "smoke", "--json"]
    status, out, _ = said(monkeypatch, capsys, "plan", "--store", command.store, *words)
    assert (status, json.loads(out)["store"]) == (0, command.store)
    monkeypatch.setenv("MOCROP_RETRY_SECONDS", "0.2")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    status, _, err = said(monkeypatch, capsys, "plan", "--store", command.store, *words)
    assert (status, "does not answer" in err) == (1, True)


def test_all_that_a_run_listens_on_is_loopback(command: Command) -> None:
    assert len(command.listened) >= 4  # Prefect's server, Dask's scheduler, its two workers
    assert [place for place in command.listened if not is_loopback(place)] == []


def test_no_secret_is_printed_or_kept(server: str, command: Command) -> None:
    """The work folder, the Prefect home and what was printed: the run's own server keeps its database nowhere."""
    kept = [path for path in command.home.parent.rglob("*") if path.is_file()]
    assert any(path.suffix == ".mp4" for path in kept)
    assert not any(path.is_relative_to(command.home) for path in kept)
    for secret in (SECRET, KEY):
        assert secret not in command.said
        assert [path for path in kept if secret.encode() in path.read_bytes()] == []
        assert [key for key, value in contents(server, command.store).items() if secret.encode() in value] == []


@pytest.fixture
def options(synth_data: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Options:
    """A run of four clips in two shards; each test has a store of its own."""
    recipe = parse_recipe({**TINY, "views": [{"kind": "motion"}]}, "tiny")
    store = f"s3://bucket/{request.node.name.partition('[')[0]}.zarr"
    return Options(str(synth_data / "UCF-101"), store, recipe=recipe, work_dir=str(tmp_path / "work"), limit=4)


@pytest.fixture
def local(options: Options, tmp_path: Path) -> dict[str, bytes]:
    """The same store on a disk."""
    store = str(tmp_path / "local.zarr")
    run_stages(replace(options, store=store))
    return test_store.contents(Path(store))


def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """The exit status of a command and what it printed."""
    monkeypatch.setattr(sys, "argv", ["mocrop", *words])
    capsys.readouterr()
    try:
        app.main()
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    return status, *capsys.readouterr()


def test_no_document_is_asked_for_or_written_in_vain(
    s3: str, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by creating arrays on the store itself, which tries to create the groups above each, from all workers."""
    with faulty(s3, lambda *_: "") as (address, proxy), open_run(options) as run:
        plans = [run.pending("transcode")[0], run.pending("motion")[0]]
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        for plan in plans:
            process_shard(plan, run.recipe)
        puts = [path for method, path, _ in proxy.answers if method == "PUT"]
        assert len(puts) == len(set(puts)) > 0
        assert [(method, path, status) for method, path, status in proxy.answers if status >= 300] == []


@pytest.mark.parametrize("discard_h264", [False, True])
def test_a_shard_takes_few_requests_and_a_run_with_nothing_to_do_none(
    s3: str, options: Options, discard_h264: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: dict[str, list[int]] = {"first": [], "again": []}
    with faulty(s3, lambda *_: "") as (address, proxy):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        for limit in (2, 6):
            store = options.store.replace(".zarr", f"{limit}{discard_h264}.zarr")
            own = replace(options, store=store, limit=limit, discard_h264=discard_h264)
            for numbers in counts.values():
                proxy.answers.clear()
                run_stages(own)
                numbers.append(len(proxy.answers))
    (few, many), again = counts["first"], counts["again"]
    assert (many - few) / 2 <= REQUESTS
    assert again[0] == again[1], "whatever the number of shards"


@pytest.mark.soak
def test_requests_that_fail_now_and_then_are_sent_again(
    s3: str, options: Options, local: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(number: int, method: str) -> Fault:
        return (("error", "reset", "cut")[number // 7 % 3]) if number % 7 == 0 else ""  # type: ignore[return-value]

    with faulty(s3, fault) as (address, proxy):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        summary, done = run_stages(options)
        assert (summary.done, summary.quarantined, len(done)) == (4, {}, 8)
        assert verify(options.store) == []
        assert {(kind, method) for kind, method in proxy.failed} >= {
            (kind, method) for kind in ("error", "reset", "cut") for method in ("GET", "PUT")
        }
    assert contents(s3, options.store) == local


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["error", "reset"])
def test_a_run_whose_object_store_fails_for_good_ends_in_one_line_and_is_completed_later(
    s3: str, options: Options, local: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, kind: Fault
) -> None:
    options = replace(options, store=options.store.replace(".zarr", f"-{kind}.zarr"))
    monkeypatch.setenv("MOCROP_RETRY_SECONDS", "0.5")
    monkeypatch.setattr("data_specs.remote.PAUSES", (0.01,))
    with faulty(s3, lambda number, _: kind if number > 230 else "") as (address, proxy):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        with pytest.raises((RunError, StoreError)) as failed:
            run_stages(options)
        assert len(proxy.failed) > 2
    assert str(failed.value).startswith(f"store {options.store!r}: ")
    assert "\n" not in str(failed.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    monkeypatch.setenv("MOCROP_RETRY_SECONDS", "120")
    begun = len(contents(s3, options.store))
    assert begun < len(local)
    summary, done = run_stages(options)
    assert (summary.done, summary.quarantined) == (4, {})
    assert 0 < len(done) < 8, "what was done before must not be done again"
    assert contents(s3, options.store) == local


@pytest.mark.soak
def test_the_command_ends_in_one_line_when_its_object_store_fails_for_good_in_mid_run(
    s3: str, options: Options, prefect_server: dict[str, str]
) -> None:
    failing = threading.Event()
    words = ["--source", options.source, "--store", options.store, "--work-dir", str(options.work_dir), "--limit", "4"]
    with faulty(s3, lambda *_: "error" if failing.is_set() else "") as (address, proxy):
        known = {**prefect_server, **environment(address), "MOCROP_RETRY_SECONDS": "1"}
        process = subprocess.Popen(
            [*MOCROP, "preprocess", *words, "--recipe", "smoke"],
            env=known, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("motion: "):
                failing.set()
        assert process.wait(600) == 1, lines
        assert proxy.failed
    assert process.stdout is not None
    assert process.stdout.read() == ""
    assert lines[-1].startswith(f"mocrop: motion: store {options.store!r}: it answers 500 Internal Server Error"), lines
    assert [line for line in lines if line.startswith(("mocrop: ", "Traceback"))] == lines[-1:]
    summary, done = run_stages(replace(options, recipe="smoke"))
    assert (summary.done, summary.quarantined) == (4, {})
    assert done
    assert "transcode" not in done, "what was done before must not be done again"


WRONG = [
    ("s3://nowhere/x.zarr", {}, "there is no bucket 'nowhere'; create it first"),
    ("s3://bucket/none.zarr", {}, "no such store; create it with mocrop preprocess"),
    (
        "s3://bucket/x.zarr",
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
        "127.0.0.1:9 does not answer: Connection refused",
    ),
    (f"s3://{KEY}:{SECRET}@bucket/x.zarr", {}, "a URL with credentials in it is refused"),
    ("s3://bucket", {}, "give a folder or a URL like s3://bucket/name.zarr"),
    (f"s3://bucket/x.zarr?key={SECRET}", {}, "give a folder or a URL like s3://bucket/name.zarr"),
    ("ftp://bucket/x.zarr", {}, "give a folder or a URL like s3://bucket/name.zarr"),
    ("s3://bucket/x.zarr", {"MOCROP_RETRY_SECONDS": "soon"}, "MOCROP_RETRY_SECONDS 'soon': give a number of seconds"),
]


@pytest.mark.usefixtures("s3")
@pytest.mark.parametrize(("store", "known", "line"), WRONG)
def test_what_cannot_be_reached_or_asked_for_is_one_line(
    store: str,
    known: dict[str, str],
    line: str,
    synth_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in {"MOCROP_RETRY_SECONDS": "0.2", **known}.items():
        monkeypatch.setenv(name, value)
    for command in ("status", "verify", "boxes"):
        status, out, err = said(monkeypatch, capsys, command, store)
        assert (status, out) == (1, "")
        assert err.startswith("mocrop: ")
        assert line in err
        assert err.count("\n") == 1 or command == "verify"
        assert SECRET not in err
    if "no such store" not in line:
        options = Options(str(synth_data / "UCF-101"), store, recipe="smoke", work_dir=str(tmp_path))
        with pytest.raises((RunError, StoreError)) as refused:
            run_stages(options)
        assert line in str(refused.value)
        assert SECRET not in str(refused.value)


def test_rights_that_are_missing_are_one_line(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from obstore.exceptions import GenericError, PermissionDeniedError

    from data_specs.remote import reason

    text = (
        "Error performing GET http://h/b/k in 3ms - Server returned non-2xx status code: 403 Forbidden: <?xml?><Error>"
        "<Code>AccessDenied</Code><Message>Access Denied</Message></Error>\n\nDebug source:\nPermissionDenied {}"
    )
    assert reason(PermissionDeniedError(text)) == (
        "it answers 403 Forbidden AccessDenied Access Denied; "
        "check the credentials in the environment and the permissions on the bucket"
    )
    text = (
        "Error performing PUT http://169.254.169.254/token in 3ms - Server returned non-2xx status code: 403 Forbidden"
    )
    assert reason(GenericError(text)).startswith("no credentials; put AWS_ACCESS_KEY_ID")


def test_keys_are_taken_as_they_stand(s3: str) -> None:
    assert split_url("s3://bucket/a b/ü%20.zarr/") == ("s3", "bucket", "a b/ü%20.zarr")
    assert shown("s3://key:secret@bucket/x?token=1#y") == "s3://bucket/x"
    store = open_remote("s3://bucket/a b/ü%20é.zarr", read_only=False)
    assert exchange(store, "progress/x", None, {"a": 1})
    assert list(contents(s3, "s3://bucket/a b/ü%20é.zarr")) == ["progress/x/zarr.json"]


def test_locations_with_credentials_do_not_fit_the_flows_schema() -> None:
    from typing import Annotated

    from pydantic import Field, TypeAdapter, ValidationError

    location = TypeAdapter(Annotated[str, Field(pattern=SAFE)])
    for good in (
        "x.zarr",
        "/a/b@c/x.zarr",
        "C:/x.zarr",
        "s3://bucket/x.zarr",
        "s3://bucket/a@b.zarr",
        "a:b/c:/d",
        "s3:",
    ):
        assert location.validate_python(good) == good
    for bad in ("s3://key:secret@bucket/x.zarr", "https://k@host", "s3://k:s@bucket"):
        with pytest.raises(ValidationError):
            location.validate_python(bad)


def test_videos_are_not_looked_for_on_an_object_store(options: Options) -> None:
    with pytest.raises(RunError, match=r"^source 's3://bucket/UCF-101': give a local folder"):
        run_stages(replace(options, source=f"s3://{KEY}:{SECRET}@bucket/UCF-101"))


def test_a_local_work_folder_has_to_be_named(options: Options) -> None:
    with pytest.raises(RunError, match="work_dir: give a local folder"):
        run_stages(replace(options, work_dir=None))


@pytest.mark.soak
def test_verify_finds_damage_on_s3_and_the_next_run_repairs_it(
    s3: str, options: Options, local: dict[str, bytes]
) -> None:
    import boto3

    run_stages(options)
    client = boto3.client("s3")
    key = options.store.removeprefix("s3://bucket/")
    flipped = bytearray(local["motion/00001/c.0.0.0"])
    flipped[5] ^= 1
    client.put_object(Bucket="bucket", Key=f"{key}/motion/00001/c.0.0.0", Body=bytes(flipped))
    client.delete_object(Bucket="bucket", Key=f"{key}/views/mocrop/frames/c.0.0.0.0.0")
    client.put_object(Bucket="bucket", Key=f"{key}/progress/boxes/mocrop/00000/zarr.json", Body=b"")
    assert sorted(fault.where for fault in verify(options.store) if fault.record) == [
        "motion/00001/c.0.0.0",
        "progress/boxes/mocrop/00000",
        "views/mocrop/frames/c.0.0.0.0.0",
    ]
    summary, done = run_stages(options)
    assert summary.done == 4
    assert sorted(done) == ["boxes", "clips", "motion"]
    assert contents(s3, options.store) == local


def megabytes_more(work: Callable[[], object]) -> float:
    """By how much the resident memory of this process rises while ``work`` is done; obstore's is not Python's."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = peak_mb()
    work()
    return peak_mb() - before


@pytest.mark.usefixtures("s3")
@pytest.mark.soak
def test_objects_of_any_size_are_refused_or_hashed_without_being_read_into_memory(
    options: Options, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import boto3

    run_stages(replace(options, limit=2))
    client, prefix = boto3.client("s3"), options.store.removeprefix("s3://bucket/")
    client.put_object(Bucket="bucket", Key="large", Body=bytes(LARGE))

    def enlarge(key: str) -> None:
        source = {"Bucket": "bucket", "Key": "large"}
        client.copy_object(Bucket="bucket", Key=f"{prefix}/{key}", CopySource=source)

    def take_lock() -> None:
        with locked(options.store):
            pass

    enlarge(FRAMES)
    assert schema.largest_object(2, 16, 2) > LARGE
    assert hash_objects(zarr_store(options.store, read_only=True), [FRAMES, "none"], LARGE - 1) == ["", None]
    found: list[Any] = []
    assert megabytes_more(lambda: found.extend(verify(options.store))) < LARGE / 2e6
    assert [(fault.where, fault.what) for fault in found] == [
        (FRAMES, "the object's bytes differ from those that were written")
    ]
    enlarge(f"{LOCK}/zarr.json")
    assert megabytes_more(take_lock) < LARGE / 2e6
    for key, reason in (
        ("id/c.0", f"'id/c.0' has {LARGE} bytes: at most"),
        ("zarr.json", "zarr.json in the store is damaged"),
    ):
        enlarge(key)
        assert megabytes_more(lambda: found.append(said(monkeypatch, capsys, "boxes", options.store))) < LARGE / 2e6
        status, _, error = found[-1]
        assert (status, error.count("\n")) == (1, 1)
        assert reason in error


@pytest.mark.soak
def test_a_store_that_may_only_be_read_is_verified_without_its_lock(
    s3: str, command: Command, synth_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with faulty(s3, lambda _, method: "" if method in ("GET", "HEAD") else "denied") as (address, proxy):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        assert verify(command.store) == []
        assert proxy.failed
        lists = str(synth_data / "ucfTrainTestlist")
        again = Options(str(synth_data / "UCF-101"), command.store, lists, "smoke", str(tmp_path), limit=5)
        with pytest.raises(RunError, match=r"^store 's3://.*': it answers 403 Forbidden AccessDenied"):
            run_stages(again)


def test_one_run_a_store_on_s3(s3: str, options: Options) -> None:
    with locked(options.store), pytest.raises(RunError, match=r"is being written by process \d+ on .+ since 20"):
        run_stages(options)
    code = f"import os; from pipelines.store.lock import locked\nwith locked({options.store!r}): os._exit(1)"
    subprocess.run([sys.executable, "-c", code], check=False, timeout=600)
    assert list(contents(s3, options.store)) == ["progress/lock/zarr.json"]
    with locked(options.store) as taken:
        with pytest.raises(StoreLocked), locked(options.store):
            pass
        taken.settled = True
    assert contents(s3, options.store) == {}


@pytest.mark.usefixtures("s3")
def test_of_many_exchanges_of_the_same_object_one_succeeds(options: Options) -> None:
    store, expected = zarr_store(options.store, read_only=False), None
    for round in range(3):
        values = [{"round": round, "writer": writer} for writer in range(6)]
        with ThreadPoolExecutor(6) as pool:
            won = list(pool.map(partial(exchange, store, "progress/x", expected), values))
        assert won.count(True) == 1
        expected = group_document(values[won.index(True)])


@pytest.mark.soak
def test_a_recipe_may_not_differ_on_s3_either(s3: str, options: Options) -> None:
    assert isinstance(options.recipe, Recipe)
    run_stages(replace(options, limit=1))
    other = options.recipe.model_copy(update={"seed": 3})
    with pytest.raises(RunError, match=r"was created with other settings: seed is 0 in the store, 3 requested"):
        run_stages(replace(options, limit=1, recipe=other))
