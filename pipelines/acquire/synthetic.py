"""A small synthetic data set in UCF-101's layout whose classes differ only in what moves (ours).

How it is made. Each class is one drawn figure: a shape with its own hue and texture. Every frame of every
clip shows one figure of *every* class, each inside a home rectangle of its own, and no two homes overlap.
Each figure has a closed path through its home. In a clip of class A the figure of A walks along its path at
a constant 1.5 to 6 px a frame; all others stand still, each at a random place of its own path. All figures
are drawn by the same code, anti-aliased, turned and sized at random and without motion blur, over a textured
still background; sensor noise and a slight flicker lie on top, so that a codec finds false vectors too. The
background belongs to the group (``gNN``) and is the same for all classes, so that it names none.

What a model of whole frames can know. Nothing: at any one time the walking figure is where a standing one
could be, so the law of a still frame is the same in all classes and the best guess is right once in
``classes`` times. Two things remain that a still picture cannot have: the codec treats moving blocks a
little differently, and whoever compares two frames of a clip sees what moves (a network that takes its
frames one by one and averages the logits does not). A training on whole frames can only learn by heart.

What a crop around the motion can know. It cuts away whatever stands outside, and what it cuts or drops was
not the actor. How much that is depends on where the homes are, which is our choice and not a finding: they
are drawn nearer to the frame's borders than uniform ones (`_towards_borders`), as a crop of 75 % of the area
can only drop what stands near a border. With four classes, 56 % of the bystanders stay whole in the best box
of 6x8 cells around the actor, so that a guess among the figures left whole is right in 43 % of the frames;
it is right in 29 % after a centre crop of the same area and in 25 % on whole frames. Twelve classes: 14, 11
and 8 %. `tests/unit/pipelines/test_synth.py` checks these figures. They are ceilings for whoever looks only at what is
left; where it stands in the crop tells a little more. So the set shows that the chain works and that a crop can
carry information; it says nothing about the size of the gain on real video, where the scene itself is a cue
that a crop may lose.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipelines.acquire.synthetic_scenes import FIGURES, FPS, actor_boxes, compose, draw
from pipelines.media.encoder import write_video

_MARKER = "synth.json"
_LIMITS = (3, 25 * 99), (0, 2**63 - 1), (8, 100_000)  # of clips a class, of the seed, of frames


@dataclass(frozen=True, slots=True)
class Synth:
    """What `write_dataset` left on disk: where it is and how much of it there is.

    ``source`` is the folder of class folders, ``splits`` the folder of lists, ``annotations`` the JSON file
    of actor boxes; ``class_names`` are in label order; ``written`` of the ``clips`` were made by this call.
    """

    directory: Path
    source: Path
    splits: Path
    annotations: Path
    class_names: tuple[str, ...]
    clips: int
    frames: int
    written: int


def class_names(classes: int) -> tuple[str, ...]:
    """The names of the first ``classes`` figures' classes in label order, which is the alphabet's.

    Raises ValueError outside 2..12.
    """
    if not 2 <= classes <= len(FIGURES):
        raise ValueError(f"classes is {classes}, expected 2 to {len(FIGURES)}")
    return tuple(sorted(f"Moving{figure}" for figure in FIGURES[:classes]))


def groups_of(clips_per_class: int) -> tuple[int, ...]:
    """The group (from 1) of each clip of a class: about two clips a group, 3 to 25 groups, in order."""
    groups = min(25, max(3, clips_per_class // 2))
    return tuple(1 + clip * groups // clips_per_class for clip in range(clips_per_class))


def tested_groups(groups: int, split: int) -> range:
    """The groups that split 1, 2 or 3 tests: as in UCF-101 about 7 of 25, in order, none twice."""
    size = min(groups // 3, max(1, round(groups * 7 / 25)))
    return range(1 + (split - 1) * size, 1 + split * size)


def clip_ids(names: tuple[str, ...], clips_per_class: int) -> tuple[tuple[str, int], ...]:
    """``(id, group)`` of every clip, by class and then by name; an id is ``Class/v_Class_gNN_cNN``."""
    groups = groups_of(clips_per_class)
    return tuple(
        (f"{name}/v_{name}_g{group:02d}_c{1 + k - groups.index(group):02d}", group)
        for name in names
        for k, group in enumerate(groups)
    )


def write_dataset(
    directory: Path,
    *,
    classes: int = 4,
    clips_per_class: int = 12,
    seed: int = 0,
    frames: int = 50,
    on_clip: Callable[[str, int, int], None] | None = None,
) -> Synth:
    """Write the data set described above into ``directory`` and say what is there.

    ``classes`` 2..12, ``clips_per_class`` 3..2475 (each split tests at least one group of each class),
    ``seed`` >= 0, ``frames`` 8..100000 in every clip; ``on_clip(id, done, total)`` is called after each clip.
    Equal arguments give equal pixels. A folder that this function left unfinished with the same arguments is
    finished, a finished one is left as it is; any other folder with something in it raises FileExistsError. A
    number out of range raises ValueError, before anything is written.
    """
    names = class_names(classes)
    asked = {"clips_per_class": clips_per_class, "seed": seed, "frames": frames}
    for (name, value), (low, high) in zip(asked.items(), _LIMITS, strict=True):
        if not low <= value <= high:
            raise ValueError(f"{name} is {value}, expected {low} to {high}")
    directory = Path(directory)
    _claim(directory, {"format": 1, "classes": classes, **asked})
    clips = clip_ids(names, clips_per_class)
    source, annotations = directory / "UCF-101", directory / "annotations" / "actors.json"
    splits = directory / "ucfTrainTestlist"
    _write_lists(splits, names, clips)
    actors, written = {}, 0
    for done, (clip_id, group) in enumerate(clips, start=1):
        scene = compose(seed, clip_id, classes, frames)
        tube = {"start_frame": 0, "end_frame": frames, "boxes_xywh": actor_boxes(scene)}
        actors[clip_id] = {"num_frames": frames, "tubes": [tube]}
        target = source / f"{clip_id}.avi"
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            write_video(target, draw(scene, seed, clip_id, group), FPS, codec="mpeg4")
            written += 1
        if on_clip is not None:
            on_clip(clip_id, done, len(clips))
    _write_text(annotations, json.dumps(actors, separators=(",", ":")))
    return Synth(directory, source, splits, annotations, names, len(clips), frames, written)


def _claim(directory: Path, made_by: dict[str, int]) -> None:
    """Make ``directory`` ours by a marker with the arguments, or raise FileExistsError if it is not."""
    marker = directory / _MARKER
    if directory.is_file() or (directory.is_dir() and any(directory.iterdir())):
        try:
            found = dict(json.loads(marker.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            reason = "is not empty and not from `mocrop synth`"
            raise FileExistsError(f"{directory} {reason}: take a new folder") from None
        if found != made_by:
            differ = ", ".join(f"{k} {found.get(k)} not {v}" for k, v in made_by.items() if found.get(k) != v)
            raise FileExistsError(f"{directory} holds another synthetic data set ({differ}): take a new folder")
    _write_text(marker, json.dumps(made_by))


def _write_lists(folder: Path, names: tuple[str, ...], clips: tuple[tuple[str, int], ...]) -> None:
    """``classInd.txt`` and the lists of three splits, with CRLF line ends like the official ones."""
    label = {name: k for k, name in enumerate(names, start=1)}
    groups = max(group for _, group in clips)
    lists = {"classInd.txt": [f"{k} {name}" for name, k in label.items()]}
    for split in (1, 2, 3):
        tested = tested_groups(groups, split)
        lists[f"trainlist{split:02d}.txt"] = [
            f"{clip_id}.avi {label[clip_id.split('/')[0]]}" for clip_id, group in clips if group not in tested
        ]
        lists[f"testlist{split:02d}.txt"] = [f"{clip_id}.avi" for clip_id, group in clips if group in tested]
    for name, lines in lists.items():
        _write_text(folder / name, "".join(f"{line}\r\n" for line in lines))


def _write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(text.encode())
    part.replace(path)
