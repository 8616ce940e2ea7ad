"""No space, a read-only disk, rights that are missing, all in the middle of a run: one line, and completed later."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pipelines.runs.options import Options
from tests.conftest import run_stages
from tests.integration.test_store import contents
from tests.support.namespace import private

RAW = """
name = "raw"
shard_clips = 4
[transcode]
preset = "ultrafast"
[frames]
size = 320
slots = 16
choose = "uniform"
codec = {name = "raw"}
"""


@pytest.fixture(scope="module")
def whole(synth_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an unbroken run makes."""
    store = tmp_path_factory.mktemp("whole") / "s.zarr"
    run_stages(Options(str(synth_data / "UCF-101"), str(store), recipe="smoke"))
    return contents(store)


TWICE = """
mkdir -p "$FOLDER/disk"
mount -t tmpfs -o size=$SIZE tmpfs "$FOLDER/disk"
mkdir "$FOLDER/disk/w" "$FOLDER/disk/s"
$FIRST "$PYTHON" -c "$STAGES_ONLY" "$SOURCE" "$STORE" "$WORK" "$BEFORE" >"$FOLDER/first" 2>&1 || status=$?
[ "${status:-0}" = 1 ] || exit 9
eval "$MEND"
"$PYTHON" -c "$STAGES_ONLY" "$SOURCE" "$STORE" "$WORK" "" >"$FOLDER/second" 2>&1
[ "$STORE" = "$FOLDER/s.zarr" ] || cp -r "$STORE" "$FOLDER/s.zarr"
"""
DISK = '"$FOLDER/disk"'
WITHOUT_OVERRIDE = "setpriv --bounding-set=-dac_override,-dac_read_search"  # root, but rights bind
CASES = {
    "the disk of the H.264 files is full": (
        {"WORK": "disk/w", "STORE": "s.zarr", "SIZE": "200k", "MEND": f"mount -o remount,size=64m {DISK}"},
        r"^No space left on device (.*); fix this and run the same command again$",
    ),
    "the disk of the store is full": (
        {
            "WORK": "w",
            "STORE": "disk/s/s.zarr",
            "SIZE": "200m",
            "BEFORE": f"clips:mount -o remount,size=1200k {DISK}",
            "MEND": f"mount -o remount,size=64m {DISK}",
        },
        r"^No space left on device( \(.*\))?; fix this and run the same command again$",
    ),
    "the disk turned read-only": (
        {
            "WORK": "w",
            "STORE": "disk/s/s.zarr",
            "SIZE": "200m",
            "BEFORE": f"motion:mount -o remount,ro {DISK}",
            "MEND": f"mount -o remount,rw {DISK}",
        },
        r"^Read-only file system (\(.*\))?; fix this and run the same command again$",
    ),
    "the disk of the H.264 files turned read-only": (
        {
            "WORK": "disk/w",
            "STORE": "s.zarr",
            "SIZE": "64m",
            "BEFORE": f"transcode:mount -o remount,ro {DISK}",
            "MEND": f"mount -o remount,rw {DISK}",
        },
        r"^Read-only file system (\(.*\))?; fix this and run the same command again$",
    ),
    "rights were taken away": (
        {
            "WORK": "w",
            "STORE": "s.zarr",
            "SIZE": "1m",
            "FIRST": WITHOUT_OVERRIDE,
            "BEFORE": 'boxes:chmod -R a-w "$FOLDER/s.zarr/views"',
            "MEND": 'chmod -R u+w "$FOLDER/s.zarr"',
        },
        r"^Permission denied (\(.*\))?; fix this and run the same command again$",
    ),
}


OFTEN = ("the disk of the store is full", "rights were taken away")  # the others: in `make soak`


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[] if case in OFTEN else pytest.mark.soak) for case in CASES]
)
def test_a_run_that_cannot_write_ends_in_one_line_and_is_completed_later(
    case: str, synth_data: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    settings, line = CASES[case]
    known = {"FIRST": "", "BEFORE": "", **settings, "FOLDER": str(tmp_path), "SOURCE": str(synth_data / "UCF-101")}
    known |= {name: str(tmp_path / settings[name]) for name in ("STORE", "WORK")}
    ended = private(TWICE, **known)
    first, second = (tmp_path / "first"), (tmp_path / "second")
    assert first.exists(), ended.stderr
    assert re.fullmatch(line, first.read_text().strip()), first.read_text()
    assert second.exists(), ended.stderr
    assert second.read_text() == "12 0\n"
    assert ended.returncode == 0, ended.stderr
    assert contents(tmp_path / "s.zarr") == whole


COMMAND = """
mkdir "$FOLDER/disk"
mount -t tmpfs -o size=$SIZE tmpfs "$FOLDER/disk"
run() {
  "$PYTHON" -c "from pipelines.cli.app import main; main()" preprocess --source "$SOURCE" --recipe "$FOLDER/raw.toml" \
    --store "$FOLDER/disk/s.zarr" --work-dir "$FOLDER/w" --json
}
run >"$FOLDER/first" 2>"$FOLDER/first.err" &
first=$!
eval "$MEANWHILE"
status=0
wait $first || status=$?
[ $status = 1 ] || exit 9
eval "$MEND"
run >"$FOLDER/second" 2>"$FOLDER/second.err"
"$PYTHON" -c "from pipelines.cli.app import main; main()" verify "$FOLDER/disk/s.zarr" >"$FOLDER/third" 2>&1
"""
TURN_READ_ONLY = f"""
until grep -q "^transcode: 12 of 12" "$FOLDER/first.err"; do kill -0 $first; sleep 0.02; done
until mount -o remount,ro {DISK}; do kill -0 $first; sleep 0.01; done
"""  # the kernel refuses while a file is being written


@pytest.mark.soak
@pytest.mark.parametrize(
    ("trouble", "given"),
    [
        (
            "No space left on device",
            {"SIZE": "100m", "MEANWHILE": "", "MEND": f"mount -o remount,size=400m {DISK}"},
        ),
        pytest.param(
            "Read-only file system",
            {"SIZE": "400m", "MEANWHILE": TURN_READ_ONLY, "MEND": f"mount -o remount,rw {DISK}"},
            marks=pytest.mark.soak,
        ),
    ],
)
def test_the_command_on_a_disk_that_takes_no_more_says_so_and_completes_once_it_does(
    trouble: str, given: dict[str, str], synth_data: Path, tmp_path: Path, prefect_server: dict[str, str]
) -> None:
    (tmp_path / "raw.toml").write_text(RAW)
    known = {**given, "FOLDER": str(tmp_path), "SOURCE": str(synth_data / "UCF-101")}
    ended = private(COMMAND, **prefect_server, **known)
    assert ended.returncode == 0, ended.stderr + (tmp_path / "first.err").read_text()
    said = (tmp_path / "first.err").read_text().splitlines()
    assert re.match(rf"mocrop: (motion|boxes|clips): {trouble}", said[-1]), said
    assert [line for line in said if "Traceback" in line or "Errno" in line] == []
    assert (tmp_path / "first").read_text() == ""
    summary = json.loads((tmp_path / "second").read_text())
    assert (summary["done"], summary["quarantined"]) == (12, {})
    assert "transcode: 12 of 12 clips" in (tmp_path / "second.err").read_text()
    assert (tmp_path / "third").read_text().splitlines()[-1] == "OK: no problems found"
