"""The examples in the docstrings of the library run, each in a folder with ``clip.mp4`` and ``videos.zarr``."""

from __future__ import annotations

import doctest
import shutil
from pathlib import Path
from typing import Any

import pytest

import mocrop
from tests.integration.test_library import DISC

OBJECTS = {
    "mocrop": mocrop,
    **{name: getattr(mocrop, name) for name in mocrop.__all__ if not name.startswith("SOURCE_")},
    "transforms.MotionCrop": mocrop.transforms.MotionCrop,
}
EXAMPLES = {
    test.name: test
    for name, value in OBJECTS.items()
    for test in doctest.DocTestFinder().find(value, name)
    if test.examples
}
WITHOUT = {"ActorMethod", "Box", "BoxSelection", "Method", "StoreError", "VideoError"}
"""Types that other examples show."""


@pytest.fixture(scope="module")
def folder(synth_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("examples")
    shutil.copy(DISC, made / "clip.mp4")
    (made / "videos.zarr").symlink_to(synth_store)
    return made


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_shows_what_the_code_does(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    EXAMPLES[name].globs = {"mocrop": mocrop}
    said: list[str] = []
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(EXAMPLES[name], out=said.append)
    assert result.attempted > 0
    assert not result.failed, "".join(said)


def test_every_public_name_has_an_example() -> None:
    for name, value in OBJECTS.items():
        assert any(key == name or key.startswith(f"{name}.") for key in EXAMPLES) or name in WITHOUT, name
        assert _documented(value), name


def _documented(value: Any) -> bool:
    return bool(value.__doc__) and value.__doc__.strip().partition("\n")[0].endswith((".", ":"))
