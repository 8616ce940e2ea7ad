"""What a process may cost, and what it leaves when it is killed: no child, no half file that is taken for whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from itertools import count
from pathlib import Path

import psutil
import pytest

from pipelines.atomic_files import atomic_write, sweep
from pipelines.media.subprocess_runner import run, run_again_if_killed
from tests.support.saboteurs import descendants, wait_until


def python(code: str, *words: object) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, *map(str, words)], stdout=subprocess.PIPE, text=True)


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("moment", ["_warden", "bound_memory"])
def test_ctrl_c_while_a_program_is_being_started_ends_it_and_stays_ctrl_c(
    moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"pipelines.media.subprocess_runner.{moment}", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(["sleep", "323"], 300, {})
    assert not descendants(os.getpid(), "sleep 323")


def test_a_program_dies_with_the_process_that_started_it() -> None:
    starts = (
        "from pipelines.media.subprocess_runner import run; print('started', flush=True); "
        "run(['sleep', '321'], 300, {})"
    )
    process = python(starts)
    assert first_line(process) == "started"
    assert wait_until(lambda: descendants(process.pid, "sleep"))
    below: list[psutil.Process] = []

    def both_run() -> bool:
        below[:] = psutil.Process(process.pid).children(recursive=True)
        return len(below) == 2

    assert wait_until(both_run), "the program and its warden"
    process.kill()
    process.wait()
    assert psutil.wait_procs(below, 60)[1] == []


def test_nothing_outlives_a_program_that_ended_by_itself() -> None:
    before = psutil.Process().children(recursive=True)
    assert run(["true"], 10, {}).status == 0
    assert run(["sleep", "60"], 0.2, {}).late
    assert psutil.Process().children(recursive=True) == before


@pytest.mark.parametrize(("signal_name", "tries"), [("KILL", 5), ("SEGV", 2)])
def test_a_program_that_is_killed_is_tried_again_but_not_for_ever(
    signal_name: str, tries: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.media.subprocess_runner._PAUSE", 0.01)
    script = f"echo x >> {tmp_path}/tries; kill -{signal_name} $$"
    assert run_again_if_killed(["sh", "-c", script], 20, {}).signal == f"SIG{signal_name}"
    assert (tmp_path / "tries").read_text() == "x\n" * tries
    script = f"test -e {tmp_path}/once && exit 0; touch {tmp_path}/once; kill -{signal_name} $$"
    assert run_again_if_killed(["sh", "-c", script], 20, {}).status == 0


def test_a_process_ends_when_the_first_of_its_deadlines_passes() -> None:
    code = (
        "import threading, time\n"
        "from pipelines.media.limits import deadline\n"
        "def wait(limit, seconds):\n"
        "    with deadline(limit): time.sleep(seconds)\n"
        "wait(0.3, 0); time.sleep(0.4)\n"  # one that was kept
        "threading.Thread(target=wait, args=(60, 20)).start()\n"
        "print('waiting', flush=True)\n"
        "wait(0.3, 20)"
    )
    process = python(code)
    assert first_line(process) == "waiting"
    assert process.wait(600) == -signal.SIGALRM


def test_a_process_cannot_have_more_memory_than_its_bound() -> None:
    code = (
        "import numpy as np\n"
        "from pipelines.media.limits import bound_memory\n"
        "bound_memory(300 * 2**20)\n"
        "np.ones(100 * 2**20, np.uint8)\n"
        "try: np.ones(400 * 2**20, np.uint8)\n"
        "except MemoryError: print('refused')"
    )
    assert first_line(python(code)) == "refused"


def test_only_the_parts_of_dead_makers_are_swept(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom pipelines.atomic_files import atomic_write\n"
        "with atomic_write(Path(sys.argv[1])) as part:\n"
        "    part.write_text('half'); print(part, flush=True); time.sleep(600)"
    )
    maker = python(code, tmp_path / "deep.mp4")
    part = Path(first_line(maker))
    assert sweep(tmp_path) == []
    assert part.read_text() == "half"
    maker.kill()
    maker.wait()
    assert sweep(tmp_path) == [part]
    assert os.listdir(tmp_path) == []


def test_a_part_takes_its_place_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("before")
    with pytest.raises(FileNotFoundError), atomic_write(target):
        (tmp_path / "nowhere").read_text()
    assert (target.read_text(), os.listdir(tmp_path)) == ("before", ["target"])
    with atomic_write(target) as part:
        part.write_text("whole")
        assert target.read_text() == "before"
    assert (target.read_text(), os.listdir(tmp_path)) == ("whole", ["target"])


def test_sweeping_while_parts_are_made_takes_none_away(tmp_path: Path) -> None:
    made, over, sweeps = count(), threading.Event(), 0

    def keep_making() -> None:
        while not over.is_set():
            with atomic_write(tmp_path / f"{next(made)}") as part:
                part.write_text("whole")

    maker = threading.Thread(target=keep_making)
    maker.start()
    try:
        while sweeps < 200 or len(os.listdir(tmp_path)) < 10:
            assert maker.is_alive(), "what it was making is gone"
            sweep(tmp_path)
            sweeps += 1
    finally:
        over.set()
        maker.join()
    assert sorted(os.listdir(tmp_path), key=int) == [str(number) for number in range(next(made))]
