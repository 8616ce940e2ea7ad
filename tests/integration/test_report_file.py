"""What a report's file holds, for whole stores and for those that lack something."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_specs.recipes import FullView, MotionView, Recipe, load_recipe
from data_specs.schema import State
from data_specs.stored import StoreError, open_store
from mocrop_core import VECTOR
from pipelines.report import clip_cards
from pipelines.report.clip_reader import ClipReader
from pipelines.report.page import ReportError, as_script_data, render, write_report
from pipelines.runs.opening import open_run
from pipelines.runs.options import Options
from pipelines.stages.shard_task import process_shard
from tests.support.rewriting import rewrite


def document_of(path: Path) -> dict[str, Any]:
    """The JSON document of a page."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.S)
    assert found is not None
    document: dict[str, Any] = json.loads(found[1])
    return document


def report_of(store: Path, folder: Path, **options: Any) -> dict[str, Any]:
    """The document of the page of a store."""
    write_report(str(store), folder / "report.html", **options)
    return document_of(folder / "report.html")


def stopped_after(options: Options, stage: str) -> None:
    """A run that was killed after a stage: nothing is published."""
    with open_run(options) as run:
        for name in ("transcode", "motion", "boxes", "clips"):
            for plan in run.pending(name):
                process_shard(plan, run.recipe)
            if name == stage:
                return


@pytest.fixture(scope="module")
def page(ucf_store: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "report.html"
    write_report(str(ucf_store), out, annotations=data / "annotations" / "ucf101_24.json", clips=4, everything=True)
    return out


def test_the_same_store_gives_the_same_page(page: Path, ucf_store: Path, data: Path, tmp_path: Path) -> None:
    known = data / "annotations" / "ucf101_24.json"
    write_report(str(ucf_store), tmp_path / "again.html", annotations=known, clips=4, everything=True)
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()


def test_the_page_names_nothing_that_it_could_load(page: Path) -> None:
    text = page.read_text()
    outside = set(
        re.findall(r"(?:https?:)?//[a-z][^\s\"'<>)]*", text.split('id="data">')[0] + text.split("</script>", 1)[1])
    )
    assert outside <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@import|url\(|<link(?! rel=\"icon\" href=\"data:,\")|<script src|<img", text)


def test_the_policy_allows_this_script_and_this_style_only(page: Path) -> None:
    text = page.read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    style, script = re.search(r"<style>(.*?)</style>", text, re.S), re.search(r"<script>(.*?)</script>", text, re.S)
    assert style is not None
    assert script is not None
    for kind, part in (("style", style[1]), ("script", script[1])):
        digest = base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy[1]
    assert policy[1].startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy[1]


def test_thumbnails_keep_to_their_budget(page: Path, ucf_store: Path) -> None:
    document = document_of(page)
    pictures = [base64.b64decode(text) for text in document["thumbnails"]["full"].values()]
    assert len(pictures) == 15
    assert max(map(len, pictures)) <= 3000
    details = document["details"].values()
    strip = [base64.b64decode(one["picture"]) for detail in details for one in detail["strip"]]
    crops = [base64.b64decode(text) for detail in details for text in detail["crops"].values()]
    assert max(map(len, strip)) <= 4000
    assert max(map(len, crops)) <= 3000
    assert {name for detail in details for name in detail["crops"]} == {"centre", "random", "mocrop"}
    recipe = open_store(ucf_store).recipe
    assert (
        max(len(as_script_data(detail)) for detail in details)
        <= clip_cards.picture_bytes(recipe) - clip_cards.CLIP_BYTES
    )
    rows = len(as_script_data([document["rows"], document["boxes"]]))
    assert 0.4 < rows / (15 * clip_cards.row_bytes(recipe)) <= 1


def test_densities_of_a_fine_grid_count_in_the_size_of_a_page() -> None:
    fine, coarse = (
        Recipe(views=[FullView(kind="full"), MotionView(kind="motion", grid=g)]) for g in ((60, 80), (6, 8))
    )
    density = len(json.dumps(clip_cards.grey_levels(np.ones((60, 80))))) - len(
        json.dumps(clip_cards.grey_levels(np.ones((6, 8))))
    )
    assert density == 6336
    assert clip_cards.row_bytes(fine) - clip_cards.row_bytes(coarse) == density
    assert clip_cards.picture_bytes(fine) - clip_cards.picture_bytes(coarse) == clip_cards.STRIP_FRAMES * density


def test_the_head_counts_what_is_in_the_store(page: Path, ucf_store: Path) -> None:
    head, store = document_of(page)["head"], open_store(ucf_store)
    assert head["states"] == {"pending": 0, "done": 15, "quarantined": 0}
    assert head["fingerprint"] == store.fingerprint
    assert head["splits"] == [[5, 10, 0], [14, 1, 0], [12, 3, 0]]
    assert head["frames"] == int(store.table("num_frames").sum())
    assert head["software"] == store.attrs["software"]
    view = next(view for view in head["views"] if view["name"] == "mocrop")
    scores = store.view("mocrop").table("score")
    assert view["score"] == pytest.approx(float(scores.mean()), abs=1e-5)
    box, size = store.view("mocrop").table("box"), store.table("frame_size")
    areas = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) / size.prod(axis=1)
    assert view["area"] == pytest.approx(areas.mean(), abs=1e-5)
    assert sum(row[1] for row in view["classes"]) == 15
    makeup = next(row for row in view["classes"] if head["classes"][row[0]] == "ApplyEyeMakeup")
    assert makeup[1:4] == [2, 2, 2]
    assert makeup[4] == pytest.approx(areas[:2].mean(), abs=1e-5)


def test_the_heat_map_is_the_share_of_boxes_at_each_place(page: Path, ucf_store: Path) -> None:
    document, store = document_of(page), open_store(ucf_store)
    view = next(view for view in document["head"]["views"] if view["name"] == "mocrop")
    heat = np.array(view["heat"]).reshape(36, 48)
    box = store.view("mocrop").table("box")
    for row, col in ((0, 0), (0, 47), (18, 24), (35, 3), (20, 45)):
        height, width = store.table("frame_size").T
        x, y = (col + 0.5) / 48 * width, (row + 0.5) / 36 * height
        inside = (x >= box[:, 0]) & (x < box[:, 2]) & (y >= box[:, 1]) & (y < box[:, 3])
        assert heat[row, col] == round(1000 * inside.mean())
    assert heat.max() == 1000


def test_the_share_of_a_real_actor_is_that_of_the_stored_box(page: Path, data: Path, ucf_store: Path) -> None:
    id = "SoccerJuggling/v_SoccerJuggling_g23_c01"
    store, actors = open_store(ucf_store), document_of(page)["actors"]
    x0, y0, x1, y1 = store.view("mocrop").table("box")[store.row(id)]
    ((tube,),) = [json.loads((data / "annotations" / "ucf101_24.json").read_text())[id]["tubes"]]
    shares = [
        max(0, min(x + w, x1) - max(x, x0)) * max(0, min(y + h, y1) - max(y, y0)) / (w * h)
        for x, y, w, h in tube["boxes_xywh"]
    ]
    assert len(shares) == 240
    index = actors["rows"].index(store.row(id))
    series = next(one for one in actors["series"] if one["name"] == "mocrop")
    assert series["clips"][index] == pytest.approx(sum(shares) / 240, abs=1e-5)
    assert series["clipsMostly"][index] == pytest.approx(sum(share >= 0.9 for share in shares) / 240, abs=1e-5)
    # the box of which tests/unit/mocrop_core/test_core_coverage.py works the share out by hand
    assert (x0, y0, x1, y1) == (40, 40, 320, 240)
    assert series["clips"][index] == pytest.approx(0.971235, abs=1e-5)


def test_vectors_by_time_add_up_to_those_of_the_clip(page: Path, ucf_store: Path) -> None:
    details, reader = document_of(page)["details"], ClipReader(open_store(ucf_store))
    assert len(details) == 4
    for row, detail in details.items():
        vectors = reader.fast_vectors(int(row))
        time = detail["time"]
        assert sum(time["all"]) == len(vectors)
        assert sum(time["inside"]["full"]) <= len(vectors)  # block centres may lie outside the frame
        assert all(a >= b for a, b in zip(time["all"], time["inside"]["mocrop"], strict=True))
        assert time["frames"][-1] == reader.tables["num_frames"][int(row)]


def test_arrows_point_where_the_blocks_go_and_are_of_a_frame_of_their_section() -> None:
    vectors = np.zeros(3, VECTOR)
    vectors[0] = (2, 100, 50, 16, 16, -3.25, 0.5)
    vectors[1] = (2, 200, 60, 16, 16, 2, 0)
    vectors[2] = (7, 10, 10, 16, 16, 0, -9)
    strip: list[dict[str, Any]] = [{"frame": 0}, {"frame": 5}, {"frame": 9}]
    clip_cards.add_motion(strip, vectors, (240, 320), (6, 8))
    assert strip[0]["arrows"] == [100, 50, 13, -2, 200, 60, -8, 0]
    assert [one.get("arrows_of") for one in strip] == [2, 7, None]
    levels = np.frombuffer(base64.b64decode(strip[0]["density"]), np.uint8).reshape(6, 8)
    assert levels.sum() == 2 * 255
    assert levels[1, 2] == levels[1, 5] == 255


def test_the_sample_has_the_wanted_the_worst_and_some_of_all(ucf_store: Path) -> None:
    reader = ClipReader(open_store(ucf_store))
    score = reader.tables["views/mocrop/score"]
    chosen = clip_cards.sample(reader, 6, [4], [9])
    assert len(chosen) == 6
    assert {4, 9, int(score.argmin())} <= set(chosen)
    assert chosen == sorted(chosen)
    assert clip_cards.sample(reader, 100, [], []) == list(range(15))
    assert clip_cards.sample(reader, 0, [3], [9]) == [3]


def test_a_page_that_would_be_too_large_asks_for_all(
    ucf_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.report.page.LARGEST", 200_000)
    with pytest.raises(ReportError, match=r"--clips 300: .* 1 MB, more than 0; give --clips 2, or --all"):
        write_report(str(ucf_store), tmp_path / "r.html")
    assert write_report(str(ucf_store), tmp_path / "r.html", clips=2).pictures == 2
    everything = write_report(str(ucf_store), tmp_path / "r.html", clips=1, everything=True)
    assert everything.listed == everything.clips == 15
    assert (everything.pictures, everything.details) == (15, 1)


def test_a_page_of_too_many_clips_lists_a_sample_counts_all_and_says_so(
    ucf_store: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    annotations = data / "annotations" / "ucf101_24.json"
    whole = report_of(ucf_store, tmp_path, clips=2, annotations=annotations)
    recipe = load_recipe("smoke")
    room = 2 * clip_cards.picture_bytes(recipe) + 8 * clip_cards.row_bytes(recipe)
    monkeypatch.setattr("pipelines.report.page.LARGEST", room)
    made = write_report(str(ucf_store), tmp_path / "r.html", clips=2, annotations=annotations)
    assert 2 < made.listed < made.clips == 15
    assert made.bytes < room + 200_000, "scripts and numbers of the whole"
    part = document_of(tmp_path / "r.html")
    assert part["notices"][0].startswith(f"The page lists {made.listed} of 15 clips")
    places = [whole["rows"]["id"].index(id) for id in part["rows"]["id"]]
    assert places == sorted(places)
    for column in ("label", "split", "state", "frames"):
        assert part["rows"][column] == [whole["rows"][column][place] for place in places]
    for view, columns in part["boxes"].items():
        assert columns["score"] == [whole["boxes"][view]["score"][place] for place in places]
        assert columns["density"] is None or columns["density"] == [
            whole["boxes"][view]["density"][place] for place in places
        ]
    for name in ("states", "splits", "views", "frames"):
        assert part["head"][name] == whole["head"][name]
    assert {part["rows"]["id"][int(place)] for place in part["details"]} == {
        whole["rows"]["id"][int(place)] for place in whole["details"]
    }
    assert part["actors"]["count"] == whole["actors"]["count"] == len(whole["actors"]["rows"])
    series, whole_series = part["actors"]["series"][0], whole["actors"]["series"][0]
    kept = dict(zip(map(whole["rows"]["id"].__getitem__, whole["actors"]["rows"]), whole_series["clips"], strict=True))
    assert series["clips"] == [kept[part["rows"]["id"][place]] for place in part["actors"]["rows"]]
    assert series["mean"] == whole_series["mean"]


def test_an_unfinished_store_shows_what_there_is(synth_data: Path, tmp_path: Path) -> None:
    splits = str(synth_data / "ucfTrainTestlist")
    for stage, boxed in (("transcode", 0), ("boxes", 12)):
        store = tmp_path / stage / "s.zarr"
        stopped_after(Options(str(synth_data / "UCF-101"), str(store), splits, "smoke"), stage)
        document = report_of(store, tmp_path)
        assert document["head"]["states"] == {"pending": 12, "done": 0, "quarantined": 0}
        assert document["notices"][0].startswith("No clip is done yet")
        assert "No frames are shown" in document["notices"][1]
        assert document["head"]["views"][3]["boxed"] == boxed
        assert document["thumbnails"] == {"full": {}}


def test_a_store_whose_frames_are_gone_or_damaged_says_so(own_ucf_store: Path, tmp_path: Path) -> None:
    frames = own_ucf_store / "views" / "full" / "frames"
    chunk = min(frames.glob("c.*"))
    rewrite(chunk, chunk.read_bytes()[:100])
    document = report_of(own_ucf_store, tmp_path, clips=1, everything=True)
    assert 0 < len(document["thumbnails"]["full"]) < 15
    assert "views/full/frames is damaged" in document["notices"][-1]
    shutil.rmtree(own_ucf_store / "views" / "full" / "frames")
    document = report_of(own_ucf_store, tmp_path, clips=1, everything=True)
    assert document["thumbnails"]["full"] == {}
    assert document["notices"][0].startswith("No frames are shown")
    assert "views/full/frames in the store is damaged" in document["notices"][-1]


def test_a_store_without_its_vectors_says_so(own_ucf_store: Path, tmp_path: Path) -> None:
    shutil.rmtree(own_ucf_store / "motion")
    document = report_of(own_ucf_store, tmp_path, clips=1)
    (detail,) = document["details"].values()
    assert detail["time"] is None
    assert re.search(r"motion/\d+ in the store is damaged", document["notices"][-1])


RECORDS = ["transcode", "motion", "boxes/mocrop", "clips/mocrop"]


@pytest.mark.parametrize("record", RECORDS)
def test_a_store_that_lost_a_record_still_has_a_page(
    own_ucf_store: Path, data: Path, tmp_path: Path, record: str
) -> None:
    shutil.rmtree(own_ucf_store / "progress" / record / "00000")
    known = data / "annotations" / "ucf101_24.json"
    document = report_of(own_ucf_store, tmp_path, annotations=known, clips=2, everything=True)
    assert len(document["rows"]["id"]) == 15
    states = document["head"]["states"]
    assert states["done"] + states["pending"] == 15
    assert states["pending"] > 0
    lost = {"motion": ["full", "mocrop"], "boxes/full": ["full"], "boxes/mocrop": ["mocrop"]}.get(record, [])
    for view in ("full", "mocrop"):
        boxed = [source > 0 for source in document["boxes"][view]["source"]]
        assert all(boxed) == (view not in lost)
        assert any(boxed)


def test_a_damaged_density_leaves_its_clips_without_a_map(own_ucf_store: Path, tmp_path: Path) -> None:
    chunk = min((own_ucf_store / "views/mocrop/density").glob("c.*"))
    rewrite(chunk, chunk.read_bytes()[:-3])
    document = report_of(own_ucf_store, tmp_path, clips=1)
    empty = [text == "" for text in document["boxes"]["mocrop"]["density"]]
    assert len(empty) == 15
    assert 0 < sum(empty) < 15
    assert "views/mocrop/density" in document["notices"][-1]
    assert "mocrop verify" in document["notices"][-1]


def test_a_store_without_whole_frames_shows_its_crops(synth_data: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "own.toml"
    recipe.write_text(
        'shard_clips = 4\n[transcode]\npreset = "veryfast"\n[frames]\nslots = 2\nsize = 64\n'
        '[[views]]\nkind = "motion"\nname = "box"\n'
    )
    store = tmp_path / "s.zarr"
    options = Options(str(synth_data / "UCF-101"), str(store), None, str(recipe), limit=3)
    stopped_after(options, "clips")
    document = report_of(store, tmp_path)
    assert document["head"]["full"] is None
    assert len(document["thumbnails"]["box"]) == 3
    assert "no view of whole frames" in document["notices"][0]
    assert document["details"]["0"]["strip"][0].get("picture") is None


def test_quarantined_clips_stand_with_their_reasons(synth_data: Path, tmp_path: Path) -> None:
    source = tmp_path / "UCF-101"
    shutil.copytree(synth_data / "UCF-101", source)
    broken = next(iter(sorted(source.rglob("*.avi"))))
    broken.write_bytes(b"no video")
    options = Options(str(source), str(tmp_path / "s.zarr"), None, "smoke", limit=4)
    stopped_after(options, "clips")
    document = report_of(tmp_path / "s.zarr", tmp_path)
    assert document["head"]["states"] == {"pending": 0, "done": 3, "quarantined": 1}
    assert document["rows"]["state"][0] == State.QUARANTINED
    assert document["rows"]["reason"]["0"].startswith("transcode: ")
    assert len(document["thumbnails"]["full"]) == 3


def test_json_in_a_script_cannot_end_it() -> None:
    nasty = "</script><!--<script>&\u2028\u2029\ud800\x00"
    text = as_script_data({"id": [nasty]})
    assert not re.search(r"[<>&\u2028\u2029\x00]", text)
    assert text.isascii()
    assert json.loads(text)["id"] == [nasty]


def test_a_title_is_text(page: Path) -> None:
    document = document_of(page)
    document["head"]["store"] = "</title><script>alert(1)</script>{{data}}"
    made = render(document).decode()
    assert "<title>&lt;/title&gt;&lt;script&gt;alert(1)&lt;/script&gt;{{data}} · mocrop report</title>" in made
    assert made.count("<script") == 2


def test_a_report_that_fails_leaves_the_old_one(ucf_store: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    out.write_text("old")
    bad = tmp_path / "bad.json"
    bad.write_text("{")
    with pytest.raises(ReportError, match="not JSON"):
        write_report(str(ucf_store), out, annotations=bad)
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.json", "report.html"]


def test_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such store"):
        write_report(str(tmp_path / "none.zarr"), tmp_path / "r.html")
