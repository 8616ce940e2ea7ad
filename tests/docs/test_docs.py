"""The documentation holds: its commands run, its recipes load, its links lead somewhere, its tables are the code's.

A fenced block of README.md or docs/ is run if it is ``sh`` or ``python``, in order, in one folder a document, and
loaded as a recipe if it is ``toml`` (those of CONTRIBUTING.md too); unless a comment directly above it says otherwise:

- ``<!-- needs: … -->``: it is not run, as the machine lacks this;
- ``<!-- shows: … -->``: it is not run, as it shows this, such as another program's output;
- ``<!-- file: NAME -->``: it becomes this file in the folder, for the blocks after it.

``make check-docs`` runs the blocks and the notebook; ``make test`` does all the rest.

``<!-- folder: … -->`` in a document says what is in its folder before the first block: names of ``CONTENTS``.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import typer.main

import mocrop
from data_specs.recipes import load_recipe
from data_specs.schema import STAGES
from pipelines.cli.app import app
from pipelines.execution.server_address import held_port
from tests.docs import reference_tables
from tests.places import ROOT
from tests.support.object_store import environment, make_bucket, s3_server

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
NOTEBOOK = ROOT / "docs" / "inspect_boxes.ipynb"
RUN, LOADED, SHOWN = {"sh", "python"}, {"toml"}, {"", "text", "json"}
MARKS = {"needs", "shows", "file"}
BLOCK_SECONDS = 600
FENCE = re.compile(r"^```(\w*)$")
MARK = re.compile(r"^<!-- (\w+): (.+) -->$")
FOLDER = re.compile(r"^<!-- folder: (.+) -->$", re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: where it begins, its language, its lines, and the marks above it."""

    document: Path
    line: int
    language: str
    text: str
    marks: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{name_of(self.document)}:{self.line}"


def name_of(document: Path) -> str:
    return str(document.relative_to(ROOT))


def blocks_of(document: Path) -> Iterator[Block]:
    lines = document.read_text(encoding="utf-8").splitlines()
    marks: dict[str, str] = {}
    number = 0
    while number < len(lines):
        opened = FENCE.match(lines[number])
        if opened:
            end = lines.index("```", number + 1)
            yield Block(document, number + 1, opened[1], "\n".join(lines[number + 1 : end]) + "\n", marks)
            number = end
        mark = MARK.match(lines[number])
        marks = {**marks, mark[1]: mark[2]} if mark else {}
        number += 1


BLOCKS = [block for document in DOCUMENTS for block in blocks_of(document)]


def test_every_block_is_run_or_says_why_not() -> None:
    assert len(BLOCKS) > 30
    for block in BLOCKS:
        assert block.language in RUN | LOADED | SHOWN, f"{block}: ```{block.language} is none of those that are tested"
        assert set(block.marks) <= MARKS | {"folder"}, f"{block}: unknown mark"
    assert {block.language for block in BLOCKS} >= RUN | LOADED


def test_commands_and_flags_in_the_documents_exist() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    flags = {name: {flag for word in each.params for flag in word.opts} for name, each in commands.items()}
    count = 0
    for block in BLOCKS:
        if block.language != "sh":
            continue
        for line in block.text.replace("\\\n", " ").splitlines():
            for words in map(str.split, re.split(r"\s#|[;|&]", line)):
                if words[:1] == ["mocrop"] and not words[1].startswith("-"):
                    assert words[1] in commands, f"{block}: {line}"
                    given = {word.partition("=")[0] for word in words if re.match("--[a-z]", word)}
                    assert given <= flags[words[1]] | {"--help"}, f"{block}: {line}"
                    count += 1
    assert count > 30


def test_what_python_in_the_documents_imports_exists() -> None:
    count = 0
    for block in BLOCKS:
        if block.language != "python" or "needs" in block.marks:
            continue
        for node in ast.walk(ast.parse(block.text, str(block))):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module or "")
                missing = [each.name for each in node.names if not hasattr(module, each.name)]
                assert not missing, f"{block}: {node.module} has no {', '.join(missing)}"
                count += 1
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "mocrop":
                assert hasattr(mocrop, node.attr), f"{block}: mocrop has no {node.attr}"
                count += 1
    assert count > 10


def test_recipes_in_the_documentation_load(tmp_path: Path) -> None:
    blocks = [*BLOCKS, *blocks_of(CONTRIBUTING)]
    found = [block for block in blocks if block.language == "toml" and "shows" not in block.marks]
    assert {block.document for block in found} > {CONTRIBUTING}
    for number, block in enumerate(found):
        file = tmp_path / f"{number}.toml"
        file.write_text(block.text)
        assert load_recipe(file).views, str(block)


# --- what is in a document's folder


def _link(folder: Path, target: Path) -> None:
    (folder / target.name).symlink_to(target)


def _some_clips(folder: Path, data: Path, count: int, name: str = "UCF-101") -> None:
    clips = sorted((data / "UCF-101").glob("*/*.avi"))
    for clip in clips[:: len(clips) // count][:count]:
        target = folder / name / clip.parent.name / clip.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(clip, target)


def _hmdb51(folder: Path, data: Path) -> None:
    """Clips and lists in the form of HMDB-51, under names such as those that it has."""
    clips = sorted((data / "UCF-101").glob("*/*.avi"))[:4]
    names = [
        "brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi",
        "brush_hair/#20_Rhythm_clap_u_nm_np1_fr_goo_1.avi",
        "wave/50_FIRST_DATES_wave_f_cm_np1_fr_med_0.avi",
        "wave/AmericanGangster_wave_u_cm_np1_fr_bad_57.avi",
    ]
    lists = folder / "testTrainMulti_7030_splits"
    lists.mkdir()
    for clip, name in zip(clips, names, strict=True):
        target = folder / "hmdb51" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(clip, target)
    for name in ("brush_hair", "wave"):
        own = [entry.rpartition("/")[2] for entry in names if entry.startswith(name)]
        for split in (1, 2, 3):
            text = "".join(f"{clip} {1 + (index + split) % 2} \n" for index, clip in enumerate(own))
            (lists / f"{name}_test_split{split}.txt").write_text(text)


def _numbered_clips(folder: Path, data: Path, names: list[str]) -> None:
    for clip, name in zip(sorted((data / "UCF-101").glob("*/*.avi")), names, strict=False):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(clip, folder / name)


def _kinetics(folder: Path, data: Path) -> None:
    """Clips and annotations in the form of Kinetics-400; one clip is missing."""
    rows = [("air drumming", "train"), ("zumba", "train"), ("air drumming", "val"), ("zumba", "val"), ("zumba", "val")]
    names = [f"{part}/{name}/aBcDeFgHiJ{at}_000010_000020.mp4" for at, (name, part) in enumerate(rows)]
    _numbered_clips(folder / "kinetics", data, names[:4])
    (folder / "annotations").mkdir()
    for wanted in ("train", "val"):
        lines = [f"{name},aBcDeFgHiJ{at},10,20,{part},0" for at, (name, part) in enumerate(rows) if part == wanted]
        text = "\n".join(["label,youtube_id,time_start,time_end,split,is_cc", *lines, ""])
        (folder / "annotations" / f"{wanted}.csv").write_text(text)


def _ssv2(folder: Path, data: Path) -> None:
    """Clips and labels in the form of Something-Something V2."""
    _numbered_clips(folder / "ssv2", data, [f"20bn-something-something-v2/{number}.webm" for number in range(1, 5)])
    templates = ("Holding [something]", "Putting [something] into [something]")
    items = [{"id": str(at + 1), "template": templates[at % 2], "placeholders": ["a cup"]} for at in range(4)]
    names = {text.replace("[", "").replace("]", ""): str(at) for at, text in enumerate(templates)}
    files = {"train": items[:2], "validation": items[2:], "test": [{"id": "9"}], "labels": names}
    (folder / "labels").mkdir()
    for name, value in files.items():
        (folder / "labels" / f"{name}.json").write_text(json.dumps(value))


CONTENTS: dict[str, Callable[[Path, Path], None]] = {
    "UCF-101": lambda folder, data: _link(folder, data / "UCF-101"),
    "UCF-101 with 4 clips": lambda folder, data: _some_clips(folder, data, 4),
    "videos with 3 clips": lambda folder, data: _some_clips(folder, data, 3, "videos"),
    "ucfTrainTestlist": lambda folder, data: _link(folder, data / "ucfTrainTestlist"),
    "ucf101_24.json": lambda folder, data: _link(folder, data / "annotations" / "ucf101_24.json"),
    "hmdb51": _hmdb51,
    "kinetics": _kinetics,
    "ssv2": _ssv2,
}
"""What may be in a folder, but for ``ucf101.zarr``, a store of the real clips with the recipe smoke, and ``s3``, an
object store with an empty bucket called ``bucket``."""


def contents_of(document: Path) -> list[str]:
    found = FOLDER.findall(document.read_text(encoding="utf-8"))
    return [name for line in found for name in line.split(", ")]


def copy_store(store: Path, folder: Path) -> None:
    shutil.copytree(store, folder / "ucf101.zarr")
    shutil.copytree(store.with_name(f"{store.name}.work"), folder / "ucf101.zarr.work")


# --- running


def run_block(block: Block, folder: Path, variables: dict[str, str]) -> None:
    """Run a block; what it left running in the background is ended with it. Ports are replaced by free ones."""
    with (folder / "output.log").open("w+") as log, held_port() as port:
        text = re.sub(r"\b8786\b", str(port), block.text)
        command = ["bash", "-euo", "pipefail", "-c", text] if block.language == "sh" else [sys.executable, "-c", text]
        process = subprocess.Popen(
            command, cwd=folder, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        try:
            status: int | str = process.wait(BLOCK_SECONDS)
        except subprocess.TimeoutExpired:
            status = f"nothing after {BLOCK_SECONDS} s"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.seek(0)
        assert status == 0, f"{block} ended with {status}:\n{block.text}\n{log.read()[-4000:]}"


@pytest.fixture(scope="session")
def variables(prefect_server: dict[str, str]) -> dict[str, str]:
    """The environment of someone who has activated .venv, with a Prefect server, so that not every run starts one."""
    kept = {name: value for name, value in prefect_server.items() if not name.startswith(("AWS_", "MOCROP_FF"))}
    return {
        **kept,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}",
        "NO_COLOR": "1",
    }


RUNNABLE = [
    document
    for document in DOCUMENTS
    if any(block.document == document and block.language in RUN and not block.marks.keys() & {"needs", "shows"}
           for block in BLOCKS)
]  # fmt: skip


@pytest.mark.documents
@pytest.mark.parametrize("document", RUNNABLE, ids=name_of)
def test_commands_of(document: Path, data: Path, ucf_store: Path, variables: dict[str, str], tmp_path: Path) -> None:
    ran = 0
    with ExitStack() as stack:
        for name in contents_of(document):
            if name == "ucf101.zarr":
                copy_store(ucf_store, tmp_path)
            elif name == "s3":
                address = stack.enter_context(s3_server())
                make_bucket(address, "bucket")
                variables = {**variables, **environment(address)}
            else:
                CONTENTS[name](tmp_path, data)
        for block in blocks_of(document):
            if block.marks.keys() & {"needs", "shows"}:
                continue
            if "file" in block.marks:
                (tmp_path / block.marks["file"]).write_text(block.text)
            elif block.language in RUN:
                run_block(block, tmp_path, variables)
                ran += 1
    assert ran


# --- links, tables, messages


def headings_of(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower()).replace(" ", "-")
        for title in titles
    }


def test_links_lead_somewhere() -> None:
    count = 0
    for document in [*DOCUMENTS, CONTRIBUTING]:
        text = re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for link in LINK.findall(text):
            if link.startswith(("https://", "http://", "mailto:")):
                continue
            path, _, anchor = link.partition("#")
            target = (document.parent / path).resolve() if path else document
            assert target.exists(), f"{name_of(document)}: {link}"
            if anchor:
                assert anchor in headings_of(target), f"{name_of(document)}: {link}"
            count += 1
    assert count > 20


def test_the_map_names_every_document() -> None:
    linked = {(ROOT / "docs" / link.partition("#")[0]).resolve() for link in LINK.findall(DOCUMENTS_INDEX)}
    for document in [*DOCUMENTS, NOTEBOOK]:
        assert document in linked or document == ROOT / "docs" / "index.md", name_of(document)


DOCUMENTS_INDEX = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")


def test_tables_are_those_of_the_code_and_of_the_kept_results() -> None:
    found = []
    for document in reference_tables.DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        assert reference_tables.with_tables(text) == text, f"{document.name}: run python -m tests.docs.reference_tables"
        found += re.findall(r"<!-- table: (.+?) -->", text)
    assert sorted(found) == sorted(reference_tables.TABLES)


def messages_of_the_program() -> list[str]:
    """Every text in the packages, with ``…`` where a value is put in."""
    found = []
    for package in ("data_specs", "pipelines", "training"):
        for file in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    found.append("".join(str(p.value) if isinstance(p, ast.Constant) else "…" for p in node.values))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return found


def test_messages_in_the_reference_are_those_of_the_program() -> None:
    known = messages_of_the_program()
    text = (reference_tables.REFERENCE / "errors.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^\| `([^`]+)` \|", text, flags=re.MULTILINE)
    assert len(quoted) > 50
    for message in quoted:
        pattern = f"*{message.replace('[', '[[]').strip('…').replace('…', '*')}*"
        assert any(fnmatchcase(each, pattern) for each in known), f"no message of the program reads: {message}"


def test_what_is_promised_names_tests_that_are_there() -> None:
    text = (reference_tables.REFERENCE / "promises.md").read_text(encoding="utf-8").partition("\n## ")[0]
    rows = [line for line in text.splitlines() if "::test_" in line]
    assert len(rows) >= 20
    file = ""
    for row in rows:
        for named, test in re.findall(r"`(test_\w+\.py)?::(test_\w+)`", row):
            file = named or file
            (path,) = (ROOT / "tests").rglob(file)
            found = ast.parse(path.read_text(encoding="utf-8")).body
            (there,) = [one for one in found if isinstance(one, ast.FunctionDef) and one.name == test] or [None]
            assert there is not None, f"{file} has no {test}"
            long = {"pytest.mark.soak", "pytest.mark.documents"} & set(map(ast.unparse, there.decorator_list))
            assert not long or "*soak*" in row, f"{test} is not in make test"
        file = ""


def test_the_stages_are_named_in_the_tutorial() -> None:
    text = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    assert all(f"*{stage}*" in text for stage in STAGES)


# --- the notebook


@pytest.mark.documents
def test_the_notebook_runs(ucf_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    copy_store(ucf_store, tmp_path)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    drawn = [
        output for cell in notebook.cells for output in cell.get("outputs", ()) if "image/png" in output.get("data", {})
    ]
    assert len(drawn) >= 3


def test_the_notebook_is_kept_without_outputs() -> None:
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        assert not cell.get("outputs")
        assert not cell.get("execution_count")
