"""Which versions made a store: named in each record, and shown where several did."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from data_specs.records import BoxRow, CropRow, MotionRow, TranscodeRow
from data_specs.stored import open_store, zarr_store
from pipelines.cli.app import app
from pipelines.runs import outcome
from pipelines.runs.opening import about_store
from pipelines.runs.options import Options
from pipelines.store.summary import summarise
from pipelines.store.verify import verify
from pipelines.store.writer import write_record
from tests.conftest import run_stages
from tests.integration.test_chain import ENCODE, still_store
from tests.integration.test_store import contents

PILLOW, AV = version("pillow"), version("av")
VIEWS = ("full", "mocrop")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three still clips and a store of them, in two shards."""
    return still_store(tmp_path_factory)


@pytest.fixture
def begun(made: Path, tmp_path: Path) -> Options:
    """A copy as an older Pillow would have left it that was stopped when one shard was done."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    options = Options(str(tmp_path / "source"), str(tmp_path / "store.zarr"), recipe=ENCODE)
    store, writable = open_store(options.store), zarr_store(options.store, read_only=False)
    for view in VIEWS:
        record = store.records(CropRow, view)[0]
        assert record.software["pillow"] == PILLOW
        write_record(writable, replace(record, software={**record.software, "pillow": "1.7.8"}))
        shutil.rmtree(Path(options.store, f"progress/clips/{view}/00001"))
    root = Path(options.store, "zarr.json")
    root.write_text(root.read_text().replace(f'"pillow": "{PILLOW}"', '"pillow": "1.7.8"'))
    assert open_store(options.store).attrs["software"]["pillow"] == "1.7.8"
    return options


def test_each_record_names_the_versions_of_what_its_stage_uses(made: Path) -> None:
    store = open_store(made / "store.zarr")
    used = {TranscodeRow: {"av"}, MotionRow: {"av"}, BoxRow: set(), CropRow: {"av", "pillow"}}
    for row_type, names in used.items():
        records = store.records(row_type, None if row_type in (TranscodeRow, MotionRow) else "mocrop")
        assert len(records) == 2
        for record in records.values():
            assert {"av", "pillow"} & set(record.software) == names
            assert all(record.software[name] == version(name) for name in record.software)


def test_an_upgrade_in_mid_store_goes_on_and_is_shown_everywhere(begun: Options) -> None:
    (notice,) = about_store(begun, ENCODE)
    assert f"pillow {PILLOW} (before: 1.7.8)" in notice
    summary, done = run_stages(begun)
    assert (summary.done, done) == (3, ["clips"])
    software = open_store(begun.store).attrs["software"]
    assert software["pillow"] == ", ".join(sorted(["1.7.8", PILLOW]))
    assert software["av"] == AV
    assert summary.software["clips"]["pillow"] == {"1.7.8": 2, PILLOW: 2}
    line = "clips: made by several versions of pillow: " + ", ".join(
        f"{one} (2 records)" for one in sorted(["1.7.8", PILLOW])
    )
    assert outcome.in_one_line(summary).endswith(f"; {line}")
    assert [row["detail"] for row in outcome.table(summary) if row["what"] == "software"] == [line]
    for command in ("status", "verify"):
        said = CliRunner().invoke(app, [command, begun.store])
        assert said.exit_code == 0, said.output
        assert f"  {line}" in said.stdout.splitlines()
    said = CliRunner().invoke(app, ["status", begun.store, "--json"])
    assert json.loads(said.stdout)["software"] == summary.software
    assert about_store(begun, ENCODE) == []


def test_parts_made_again_by_one_version_are_no_mixture(begun: Options) -> None:
    for view in VIEWS:
        shutil.rmtree(Path(begun.store, f"progress/clips/{view}/00000"))
    run_stages(begun)
    assert open_store(begun.store).attrs["software"]["pillow"] == PILLOW
    assert outcome.mixed(summarise(begun.store).software) == []
    assert verify(begun.store) == []


def test_a_record_made_again_by_another_version_with_the_same_result_leaves_all_else(begun: Options) -> None:
    """The versions are in no fingerprint: what follows from the same bytes stays good."""
    run_stages(begun)
    expected = contents(Path(begun.store))
    store, writable = open_store(begun.store), zarr_store(begun.store, read_only=False)
    record = store.records(MotionRow)[0]
    write_record(writable, replace(record, software={**record.software, "av": "9.0.0"}))
    assert run_stages(begun)[1] == []
    assert open_store(begun.store).attrs["software"]["av"] == ", ".join(sorted(["9.0.0", AV]))
    shutil.rmtree(Path(begun.store, record.path))
    assert run_stages(begun)[1] == ["motion"]
    assert contents(Path(begun.store)) == expected


@pytest.mark.parametrize("software", [[], {"av": 3}, None])
def test_versions_that_make_no_sense_are_a_damaged_record(begun: Options, software: object) -> None:
    run_stages(begun)
    file = Path(begun.store, "progress/motion/00000/zarr.json")
    values = json.loads(file.read_text())
    values["attributes"]["software"] = software
    file.write_text(json.dumps(values))
    assert ("progress/motion/00000", "the record is damaged") in {(one.where, one.what) for one in verify(begun.store)}
    assert run_stages(begun)[1] == ["motion"]
    assert verify(begun.store) == []


def test_verify_compares_the_roots_versions_with_the_records(begun: Options) -> None:
    run_stages(begun)
    root = Path(begun.store, "zarr.json")
    whole = root.read_bytes()
    root.write_bytes(whole.replace(b'"pillow": "', b'"pillow": "0.'))
    assert [(one.where, one.what) for one in verify(begun.store)] == [
        ("zarr.json", "its software versions do not match the records")
    ]
    assert run_stages(begun)[1] == []
    assert root.read_bytes() == whole
