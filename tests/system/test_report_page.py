"""The report's page in a real browser: Chromium without a window, opened from disk."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import zarr
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from data_specs.stored import open_store
from pipelines.media.encoder import write_video
from pipelines.report.page import render, write_report
from pipelines.runs.options import Options
from tests.integration.test_moving_boxes_shown import moving_run as moving_run
from tests.integration.test_report_file import document_of, report_of, stopped_after
from tests.support.browser import Browser, open_chromium

DETAILED = ["ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01", "Basketball/v_Basketball_g01_c01"]
WIDE, NARROW = (1280, 900), (390, 844)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture(scope="module")
def page(ucf_store: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "report.html"
    known = data / "annotations" / "ucf101_24.json"
    write_report(str(ucf_store), out, annotations=known, clips=3, everything=True, wanted=DETAILED)
    return out


def show(chromium: Browser, page: Path, size: tuple[int, int] = WIDE, scheme: str = "light", at: str = "") -> None:
    """Reload a page at a size and in a colour scheme."""
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    features = [
        {"name": "prefers-color-scheme", "value": scheme},
        {"name": "prefers-reduced-motion", "value": "reduce"},
    ]
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    chromium.get("about:blank")
    chromium.get_log("browser")  # what is there is of the page before
    chromium.get(page.as_uri() + at)


def soon(chromium: Browser, holds: Callable[[], object]) -> None:
    # an element may be drawn again between its finding and its reading
    wait = WebDriverWait(chromium, 60, poll_frequency=0.05, ignored_exceptions=[StaleElementReferenceException])
    wait.until(lambda _: holds())


def all_of(chromium: Browser, css: str) -> list[Any]:
    return chromium.find_elements(By.CSS_SELECTOR, css)


def one(chromium: Browser, css: str) -> Any:
    return chromium.find_element(By.CSS_SELECTOR, css)


def names(chromium: Browser) -> list[str]:
    """The ids of the clips in the grid."""
    script = (
        "return [...document.querySelectorAll('#grid a')].map(a => decodeURIComponent(a.hash.slice('#clip/'.length)))"
    )
    found: list[str] = chromium.execute_script(script)
    return found


def press(chromium: Browser, *keys: str) -> None:
    for key in keys:
        ActionChains(chromium).send_keys(key).perform()


@pytest.mark.parametrize("size", [WIDE, NARROW])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_loads_without_a_complaint_and_fits(
    chromium: Browser, page: Path, size: tuple[int, int], scheme: str
) -> None:
    show(chromium, page, size, scheme)
    assert chromium.get_log("browser") == []
    assert len(names(chromium)) == 15
    width, of = chromium.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert width <= of == size[0]
    paper = chromium.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, paper[4:-1].split(","))) < 60) == (scheme == "dark")
    one(chromium, "#grid a").click()
    soon(chromium, lambda: one(chromium, "dialog").is_displayed())
    dialog = one(chromium, "dialog").rect
    assert dialog["x"] >= 0
    assert dialog["x"] + dialog["width"] <= size[0]
    wider = chromium.execute_script("const d = document.querySelector('dialog'); return d.scrollWidth - d.clientWidth")
    assert wider <= 0
    assert chromium.get_log("browser") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_their_ground(chromium: Browser, page: Path, scheme: str) -> None:
    show(chromium, page, WIDE, scheme)
    ratios = chromium.execute_script(
        """
        const probe = document.createElement("i");
        document.body.append(probe);
        const style = getComputedStyle(document.documentElement);
        const light = (name) => {
          probe.style.color = style.getPropertyValue(name);
          const parts = getComputedStyle(probe).color.match(/\\d+/g).map((part) => part / 255);
          const linear = parts.map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
          return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
        };
        const found = {};
        for (const ink of ["--ink", "--quiet", "--accent", "--bad", "--warn"]) {
          for (const ground of ["--paper", "--card", "--soft"]) {
            const [a, b] = [light(ink), light(ground)].sort((x, y) => y - x);
            found[ink + " on " + ground] = (a + 0.05) / (b + 0.05);
          }
        }
        return found;
        """
    )
    assert len(ratios) == 15
    assert {pair: ratio for pair, ratio in ratios.items() if ratio < 4.5} == {}


def test_it_asks_for_nothing(chromium: Browser, page: Path) -> None:
    show(chromium, page)
    asked = chromium.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in asked if not name.startswith("data:")] == []


def test_every_picture_has_a_text_and_every_heading_its_level(chromium: Browser, page: Path) -> None:
    show(chromium, page, at="#clip/Basketball%2Fv_Basketball_g01_c01")
    soon(chromium, lambda: one(chromium, "dialog").is_displayed())
    script = """
        const pictures = [...document.querySelectorAll("svg, img, canvas")];
        const drawn = (e) => e.getAttribute("role") === "img" && e.getAttribute("aria-label");
        const text = (e) => e.tagName === "IMG" ? e.alt : drawn(e);
        return [pictures.length, pictures.filter(e => !text(e)).map(e => e.outerHTML.slice(0, 100))];
    """
    count, without = chromium.execute_script(script)
    assert count > 30
    assert without == []
    levels = [heading.tag_name for heading in all_of(chromium, "main h1, main h2")]
    assert levels == ["h1", *["h2"] * (len(levels) - 1)]
    unnamed = chromium.execute_script(
        "return [...document.querySelectorAll('button, a, input, select')].filter(e => !(e.textContent.trim()"
        " || e.getAttribute('aria-label') || e.labels?.length)).map(e => e.outerHTML)"
    )
    assert unnamed == []


def test_validation_clips_are_a_part_of_their_own(chromium: Browser, own_ucf_store: Path, tmp_path: Path) -> None:
    group = zarr.open_group(own_ucf_store, mode="r+")
    splits = open_store(own_ucf_store).table("split")
    cast("zarr.Array[Any]", group["split"])[:] = np.where(splits == 2, 3, splits)
    write_report(str(own_ucf_store), tmp_path / "report.html", clips=1, wanted=["Basketball/v_Basketball_g01_c01"])
    show(chromium, tmp_path / "report.html", at="#clip/Basketball%2Fv_Basketball_g01_c01")
    soon(chromium, lambda: one(chromium, "dialog").is_displayed())
    assert "1 validation, 2 train, 3 train" in one(chromium, "dialog").text
    options = [option.text for option in Select(one(chromium, "#split")).options]
    assert [text for text in options if text.startswith("split 1")] == ["split 1 train (5)", "split 1 validation (10)"]


def test_it_filters_by_class_split_state_and_words(chromium: Browser, page: Path, ucf_store: Path) -> None:
    store = open_store(ucf_store)
    show(chromium, page)
    Select(one(chromium, "#class")).select_by_visible_text("ApplyEyeMakeup")
    assert names(chromium) == store.ids[:2]
    assert one(chromium, "#count").text == "2 of 15 clips"
    Select(one(chromium, "#class")).select_by_index(0)
    for part, value in (("train", 1), ("test", 2)):
        expected = [id for id, row in zip(store.ids, store.table("split"), strict=True) if row[0] == value]
        option = next(o for o in Select(one(chromium, "#split")).options if o.text.startswith(f"split 1 {part}"))
        option.click()
        assert names(chromium) == expected
    Select(one(chromium, "#split")).select_by_index(0)
    Select(one(chromium, "#state")).select_by_visible_text("quarantined")
    assert names(chromium) == []
    assert "No clip matches" in one(chromium, "#grid").text
    Select(one(chromium, "#state")).select_by_index(0)
    one(chromium, "#find").send_keys("BASKET")
    assert names(chromium) == ["Basketball/v_Basketball_g01_c01"]


def test_it_sorts_by_what_the_store_says(chromium: Browser, page: Path, ucf_store: Path) -> None:
    store = open_store(ucf_store)
    score, box = store.view("mocrop").table("score"), store.view("mocrop").table("box")
    size = store.table("frame_size")
    area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) / size.prod(axis=1)
    offset = ((box[:, 0] + box[:, 2] - size[:, 1]) ** 2 + (box[:, 1] + box[:, 3] - size[:, 0]) ** 2) ** 0.5
    offset = offset / (size**2).sum(axis=1) ** 0.5
    show(chromium, page)
    for option, values, down in (
        ("motion kept, least first", score.round(4), False),
        ("motion kept, most first", score.round(4), True),
        ("area, smallest first", area, False),
        ("distance from the centre, farthest first", offset, True),
    ):
        Select(one(chromium, "#sort")).select_by_visible_text(option)
        shown = [float(values[store.row(id)]) for id in names(chromium)]
        assert len(shown) == 15
        assert shown == sorted(shown, reverse=down)
    Select(one(chromium, "#sort")).select_by_visible_text("actor kept, least first")
    assert names(chromium)[0].startswith(("Fencing", "Biking"))


@pytest.mark.parametrize(
    ("mine", "centre", "says"),
    [
        (0.9551, 0.967, "95.5 % of the actor, 1.2 points less than a centre crop of the same area (96.7 %)."),
        (0.98, 0.9551, "98.0 % of the actor, 2.5 points more than a centre crop of the same area (95.5 %)."),
        (0.9551, 0.9549, "95.5 % of the actor, as much as a centre crop of the same area."),
    ],
)
def test_the_head_compares_with_a_centre_crop_of_equal_area_whichever_wins(
    chromium: Browser, page: Path, tmp_path: Path, mine: float, centre: float, says: str
) -> None:
    document = document_of(page)
    for series in document["actors"]["series"]:
        if series["of"] == "mocrop":
            series["mean"] = {"view": mine, "centre": centre}.get(series["way"], series["mean"])
    params = next(view["params"] for view in document["head"]["views"] if view["name"] == "mocrop")
    del params["grid"]  # the preset actor has none
    (tmp_path / "page.html").write_bytes(render(document))
    show(chromium, tmp_path / "page.html")
    assert one(chromium, "#lead").text.endswith(says)
    assert "view: where the motion is, 75 % of the frame" in one(chromium, "#actor-tables").text


def test_another_view_changes_head_grid_and_tables(chromium: Browser, page: Path) -> None:
    show(chromium, page)
    before = one(chromium, "#grid .pair svg").get_attribute("aria-label")
    assert "of the motion" in one(chromium, "#lead").text
    Select(one(chromium, "#view")).select_by_visible_text("centre")
    assert one(chromium, "#lead").text == "centre is a box at the centre: 75 % of the picture."
    assert one(chromium, "#grid .pair svg").get_attribute("aria-label") != before
    assert "Motion kept" not in one(chromium, "#class-table").text


def test_a_clip_opens_moves_and_closes_by_keyboard_alone(chromium: Browser, page: Path) -> None:
    show(chromium, page)
    press(chromium, Keys.TAB)
    assert chromium.switch_to.active_element.text == "Skip to the clips"
    chromium.execute_script("document.querySelector('#density').focus()")
    press(chromium, Keys.TAB)
    card = chromium.switch_to.active_element
    assert card.get_attribute("class") == "card"
    assert chromium.execute_script("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    press(chromium, Keys.ENTER)
    soon(chromium, lambda: one(chromium, "dialog").is_displayed())
    assert one(chromium, "#detail-title").text == "ApplyEyeMakeup"
    pressed = lambda: one(chromium, ".strip [aria-pressed=true]").text  # noqa: E731
    first = int(pressed())
    press(chromium, Keys.ARROW_RIGHT)
    assert int(pressed()) > first
    press(chromium, Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert int(pressed()) < first
    press(chromium, Keys.PAGE_DOWN)
    soon(chromium, lambda: "g19_c03" in one(chromium, "dialog header").text)
    press(chromium, Keys.PAGE_UP)
    soon(chromium, lambda: "g01_c01" in one(chromium, "dialog header").text)
    press(chromium, Keys.ESCAPE)
    soon(chromium, lambda: not one(chromium, "dialog").is_displayed())
    assert chromium.switch_to.active_element == card
    assert "#clip" not in chromium.current_url


def test_a_detail_has_arrows_time_and_every_view(chromium: Browser, page: Path) -> None:
    show(chromium, page, at="#clip/Basketball%2Fv_Basketball_g01_c01")
    soon(chromium, lambda: one(chromium, "dialog").is_displayed())
    assert len(all_of(chromium, ".views li")) == 4
    tops = [view.rect["y"] for view in all_of(chromium, ".views li")]
    assert tops[0] == tops[1] < tops[2] == tops[3]
    assert len(all_of(chromium, ".strip button")) == 8
    assert one(chromium, ".viewer .arrows .line").get_attribute("d").startswith("M")
    assert len(all_of(chromium, ".viewer .box.actor")) == 1
    assert "of the" in one(chromium, ".time figcaption").text
    for name, gone in (("vectors", ".viewer .arrows"), ("density", ".viewer .density"), ("actors", ".viewer .actor")):
        assert all_of(chromium, gone)
        next(label for label in all_of(chromium, ".switches label") if label.text == name).click()
        assert not all_of(chromium, gone)
    all_of(chromium, ".views button")[1].click()
    assert "box of centre" in one(chromium, ".viewer svg").get_attribute("aria-label")
    loaded = chromium.execute_script(
        "return Promise.all([...document.images].map(i => i.decode().then(() => true, () => false)))"
    )
    assert loaded
    assert all(loaded)


def test_an_address_that_names_no_clip_opens_nothing(chromium: Browser, page: Path) -> None:
    for at in ("#clip/None%2Fsuch", "#clip/%E0%A4%A"):
        show(chromium, page, at=at)
        assert not one(chromium, "dialog").is_displayed()
        assert chromium.get_log("browser") == []


def test_headings_sort_their_table(chromium: Browser, page: Path) -> None:
    show(chromium, page)
    column = lambda: [row.text.split("\n")[0] for row in all_of(chromium, "#class-table tbody tr td:nth-child(5)")]  # noqa: E731
    heading = all_of(chromium, "#class-table thead button")[4]
    assert heading.text == "Motion kept"
    heading.send_keys(Keys.ENTER)
    assert one(chromium, "#class-table th[aria-sort]").get_attribute("aria-sort") == "descending"
    kept = [float(text.rstrip(" %")) for text in column()]
    assert len(kept) == 14
    assert kept == sorted(kept, reverse=True)
    all_of(chromium, "#class-table thead button")[4].send_keys(Keys.ENTER)
    assert [float(text.rstrip(" %")) for text in column()] == sorted(kept)


def test_actors_stand_by_box_class_and_clip_the_worst_first(chromium: Browser, page: Path) -> None:
    show(chromium, page)
    tables = all_of(chromium, "#actor-tables table")
    assert len(tables) == 3
    assert "best for mocrop" in tables[0].text
    actors = document_of(page)["actors"]
    mean = next(one["clips"] for one in actors["series"] if one["name"] == "mocrop")
    rows = document_of(page)["rows"]["id"]
    worst = [rows[row] for _, row in sorted(zip(mean, actors["rows"], strict=True))]
    listed = [link.text for link in all_of(chromium, "#actor-tables table:last-of-type a")]
    assert listed[:2] == worst[:2]
    assert "All annotations match" in one(chromium, "#actor-tables").text


def test_actors_kept_to_nine_tenths_stand_by_class_and_clip(chromium: Browser, page: Path) -> None:
    show(chromium, page)
    document = document_of(page)
    actors = document["actors"]
    main = next(i for i, series in enumerate(actors["series"]) if series["name"] == "mocrop")
    column = lambda table: {  # noqa: E731
        row.find_element(By.CSS_SELECTOR, "th").text: row.find_elements(By.CSS_SELECTOR, "td")[1 + main].text
        for row in all_of(chromium, f"#measure + div > :nth-child({table}) tbody tr")
    }
    shown = lambda: [column(table) for table in (1, 2)]  # noqa: E731
    names_of = [
        [document["head"]["classes"][label] for label, _ in actors["classes"]],
        [document["rows"]["id"][row] for row in actors["rows"]],
    ]
    for choice, keys in ((0, ("classes", "clips")), (1, ("classesMostly", "clipsMostly"))):
        all_of(chromium, "#measure input")[choice].click()
        series = actors["series"][main]
        assert shown() == [
            {name: f"{100 * value:.1f} %" for name, value in zip(names, series[key], strict=True)}
            for names, key in zip(names_of, keys, strict=True)
        ]
    assert "≥ 90 % kept by clip" in one(chromium, "#actor-tables").text
    assert column(2)["SoccerJuggling/v_SoccerJuggling_g23_c01"] == "85.4 %"


def test_the_time_of_each_stage_is_shown(chromium: Browser, page: Path, tmp_path: Path) -> None:
    document = document_of(page)
    document["head"]["seconds"] = {"transcode": 7200.0, "motion": 600.0, "boxes": 1.5, "clips": 120.0}
    (tmp_path / "timed.html").write_bytes(render(document))
    show(chromium, tmp_path / "timed.html")
    tiles, states, about = (one(chromium, f"#{id}").text for id in ("tiles", "states", "about-body"))
    assert "Time per clip\n528.10 s\non one core, 2.2 h in total" in tiles
    for stage in ("transcode 2.0 h", "motion 10 min", "boxes 1.5 s", "clips 2 min"):
        assert stage in states
        name, _, amount = stage.partition(" ")
        assert re.search(rf"{name}\n4 of 4 shards\n{amount}", about)
    widths = [bar.rect["width"] for bar in all_of(chromium, "#states .share-bar:last-child .shares span")]
    assert len(widths) == 4
    assert max(widths) == widths[0]


def test_notes_stand_by_kind_with_their_clips(chromium: Browser, page: Path, tmp_path: Path) -> None:
    show(chromium, page)
    assert not one(chromium, "#notes").is_displayed()
    document = document_of(page)
    clips = [[3, "2 packets <b>could not</b> be decoded"], [1, "1 packet could not be decoded"]]
    document["head"]["notes"] = [{"about": "packets that could not be decoded", "count": 7, "clips": clips}]
    (tmp_path / "noted.html").write_bytes(render(document))
    show(chromium, tmp_path / "noted.html")
    text = one(chromium, "#notes").text
    assert "7 clips: packets that could not be decoded (2 listed)" in text
    assert "2 packets <b>could not</b> be decoded" in text
    assert document["rows"]["id"][3] in text


def test_a_class_without_pictures_is_shown_all_the_same(chromium: Browser, page: Path, tmp_path: Path) -> None:
    document = document_of(page)
    pictures = document["thumbnails"]["full"]
    document["thumbnails"]["full"] = {"0": pictures["0"]}
    (tmp_path / "one.html").write_bytes(render(document))
    show(chromium, tmp_path / "one.html")
    assert one(chromium, "#pictured").is_selected()
    links = {button.text: button for button in all_of(chromium, "#class-table tbody th button")}
    chromium.execute_script("arguments[0].click()", links["Archery"])
    assert names(chromium) == ["Archery/v_Archery_g01_c01"]
    assert not one(chromium, "#pictured").is_selected()


def test_page_keys_leave_a_clip_that_the_filters_hide(chromium: Browser, page: Path) -> None:
    show(chromium, page)
    Select(one(chromium, "#class")).select_by_visible_text("Archery")
    chromium.execute_script("location.hash = '#clip/Basketball%2Fv_Basketball_g01_c01'")
    soon(chromium, lambda: one(chromium, "dialog").is_displayed())
    press(chromium, Keys.PAGE_DOWN)
    press(chromium, Keys.PAGE_UP)
    assert "v_Basketball_g01_c01" in one(chromium, "dialog header").text
    assert "v_Basketball_g01_c01" in chromium.current_url


def test_thirteen_thousand_clips_stay_usable(chromium: Browser, page: Path, tmp_path: Path) -> None:
    document = document_of(page)
    times = 888
    for name, column in document["rows"].items():
        if isinstance(column, list):  # others hold what few clips have
            document["rows"][name] = column * times
    document["rows"]["id"] = [f"{id}_{i}" for i, id in enumerate(document["rows"]["id"])]
    for view in document["boxes"].values():
        for name in ("box", "score", "source", "density"):
            view[name] = view[name] and view[name] * times
    large = tmp_path / "large.html"
    large.write_bytes(render(document))
    began = time.monotonic()
    show(chromium, large)
    assert time.monotonic() - began < 60
    assert one(chromium, "#count").text == "15 of 13\u202f320 clips"
    one(chromium, "#pictured").click()
    assert one(chromium, "#count").text == "13\u202f320 clips"
    assert len(names(chromium)) == 24
    assert one(chromium, "#pages").text.endswith("Next →")
    first = names(chromium)[0]
    all_of(chromium, "#pages button")[1].click()
    assert one(chromium, "#pages input").get_attribute("value") == "2"
    assert names(chromium)[0] != first
    began = time.monotonic()
    Select(one(chromium, "#sort")).select_by_visible_text("motion kept, least first")
    assert time.monotonic() - began < 60
    assert one(chromium, "#pages input").get_attribute("value") == "1"
    assert chromium.get_log("browser") == []


def test_names_and_reasons_are_text_and_never_markup(chromium: Browser, tmp_path: Path) -> None:
    import numpy as np

    evil = tmp_path / "UCF-101" / "<img src=x onerror=alert(1)><"
    evil.mkdir(parents=True)
    frames = [np.full((32, 48, 3), 8 * i, np.uint8) for i in range(6)]
    write_video(evil / "script>alert(2)<!--.avi", frames, 25)
    (evil / "<script>alert(3)<.avi").write_bytes(b"none")
    store = tmp_path / "<b onclick=alert(4)>.zarr"
    stopped_after(Options(str(tmp_path / "UCF-101"), str(store), None, "smoke"), "clips")
    wrong = {"</script><script>alert(5)</script>": {"num_frames": 1, "tubes": []}}
    (tmp_path / "actors.json").write_text(json.dumps(wrong))
    document = report_of(store, tmp_path, annotations=tmp_path / "actors.json")
    assert document["rows"]["id"][1] == "<img src=x onerror=alert(1)></script>alert(2)<!--"
    show(chromium, tmp_path / "report.html")
    assert chromium.get_log("browser") == []
    assert len(names(chromium)) == 2
    assert "<b onclick=alert(4)>" in one(chromium, "h1").text
    assert "<script>alert(3)<" in one(chromium, "#quarantine-table").text
    assert "<script>alert(5)" in one(chromium, "#actor-tables").text
    all_of(chromium, "#grid a")[1].click()
    soon(chromium, lambda: one(chromium, "dialog").is_displayed())
    assert "</script>alert(2)<!--" in one(chromium, "dialog header").text
    assert chromium.execute_script("return document.scripts.length") == 2
    assert (
        chromium.execute_script("return document.querySelectorAll('main script, main b[onclick], [onerror]').length")
        == 0
    )


def test_an_unfinished_store_is_told_on_the_page(chromium: Browser, synth_data: Path, tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    stopped_after(Options(str(synth_data / "UCF-101"), str(store), None, "smoke", limit=4), "boxes")
    report_of(store, tmp_path)
    show(chromium, tmp_path / "report.html")
    assert chromium.get_log("browser") == []
    assert "No clip is done yet" in one(chromium, "#notices").text
    assert len(names(chromium)) == 4
    one(chromium, "#grid a").click()
    soon(chromium, lambda: one(chromium, "dialog").is_displayed())
    assert "No frames of this clip are cached" in one(chromium, "dialog").text
    assert chromium.get_log("browser") == []


def test_a_box_that_moves_and_the_map_of_actor_are_drawn_where_they_are(
    chromium: Browser, moving_run: Options, tmp_path: Path
) -> None:
    write_report(moving_run.store, tmp_path / "report.html")
    strip = document_of(tmp_path / "report.html")["details"]["0"]["strip"]
    show(chromium, tmp_path / "report.html")
    assert chromium.get_log("browser") == []
    assert "motion relative to the camera" in one(chromium, "#legend").text
    assert "of the motion relative to the camera in" in one(chromium, "#lead").text
    cells = chromium.execute_script(
        """
        return [...document.querySelectorAll("#grid .scene")].slice(0, 1).flatMap((scene) =>
          [...scene.querySelectorAll(".density rect")].map((cell) => {
            const [box, frame] = [cell.getBBox(), scene.viewBox.baseVal];
            return [box.width, box.x + box.width - frame.width, box.y + box.height - frame.height];
          }));
        """
    )
    assert len(cells) > 48
    for width, right, bottom in cells:
        assert width == pytest.approx(320 / 40)
        assert max(right, bottom) < 0.01
    show(chromium, tmp_path / "report.html", at="#clip/a%2Fa")
    one(chromium, "[data-key='view-moving']").click()
    places = set()
    for number, shown in enumerate(strip):
        one(chromium, f"[data-key='frame-{number}']").click()
        x0, y0, x1, y1 = shown["boxes"]["moving"]
        label = one(chromium, ".viewer svg").get_attribute("aria-label")
        assert label.endswith(f"with the box of moving: {x0}, {y0}, {x1}, {y1} px")
        assert (
            f"x {x0}–{x1}, y {y0}–{y1} px in frame {shown['frame']}" in one(chromium, "[data-key='view-moving']").text
        )
        assert len(all_of(chromium, ".viewer .box.place")) == 3
        places.add((x0, y0))
    assert len(places) > 2
    assert (
        "motion relative to the camera, of the whole clip, weighted towards the middle" in one(chromium, ".viewer").text
    )
    one(chromium, "[data-key='view-mocrop']").click()
    assert "density until the next picture" in one(chromium, ".viewer").text
