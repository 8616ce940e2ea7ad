"""A small synthetic data set in UCF-101's layout whose classes differ only in which figure moves.

Construction. Each class is one drawn figure: a shape with its own hue and texture. Every frame of every clip shows one
figure of *every* class, each inside its own home rectangle; homes do not overlap. Each figure has a closed path in its
home. In a clip of class A, figure A walks along its path at a constant speed of 1.5 to 6 px per frame; all others
stand still, each at a random point of its path. All figures are drawn by the same code, anti-aliased, without motion
blur and with random rotation and size, over a textured still background. Sensor noise and slight flicker are added, so
that a codec also finds false vectors. The background depends on the group (``gNN``) only, so it carries no information
about the class.

Camera. It stands still in the first, third, ... clip of each class. In the others it sways, at about 1.5 to 4 px per
frame over up to 14 px across and 10 px down: everything in the frame moves, the actor in its own way, and all figures
stay in the frame. A method that takes all motion for the actor's fails there.

Information in whole frames. None: at any time the walking figure is where a standing one could be, so single frames
have the same distribution in all classes, and the best possible accuracy is 1 / ``classes``. There are two exceptions:
the codec treats moving blocks slightly differently, and a comparison of two frames of a clip shows what moves (a
network that processes frames separately and averages the logits cannot do that). Training on whole frames can only
memorise.

Information in a crop around the motion. The crop removes figures, none of which is the actor. How many depends on the
homes, which is a design choice and not a finding: they are drawn closer to the frame's borders than uniformly
(`_towards_borders`), as a crop of 75 % of the area can only remove figures near a border. With four classes, 56 % of
the bystanders stay whole in the best box of 6x8 cells around the actor, so a guess among the figures left whole is
right in 43 % of the frames, compared with 29 % after a centre crop of the same area and 25 % on whole frames. With
twelve classes: 14, 11 and 8 %. Where the camera moves, figures keep away from the border, and a box that a perfect
method would choose leaves 67 % of the bystanders whole: 36, 27 and 25 %.
`tests/unit/pipelines/test_synth.py` checks these numbers. They are upper bounds for a model that uses only which
figures are left; their positions in the crop add a little. The set thus shows that the pipeline works and that a crop
can carry information. It does not predict the gain on real video, where the scene itself is a cue that a crop may
lose.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipelines.acquire.synthetic_scenes import FIGURES, FPS, actor_boxes, compose, draw
from pipelines.media.encoder import write_video

_MARKER = "synth.json"
_LIMITS = (3, 25 * 99), (0, 2**63 - 1), (8, 100_000)  # of clips per class, seed and frames


@dataclass(frozen=True, slots=True)
class Synth:
    """Result of `write_dataset`.

    ``source`` is the folder of class folders, ``splits`` the folder of lists, ``annotations`` the JSON file of actor
    boxes; ``class_names`` are in label order; ``frames`` is the number per clip; ``written`` is how many of the
    ``clips`` this call made.
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
    """The class names of the first ``classes`` figures in label order, which is alphabetical.

    Raises ValueError outside 2..12.
    """
    if not 2 <= classes <= len(FIGURES):
        raise ValueError(f"classes is {classes}, expected 2 to {len(FIGURES)}")
    return tuple(sorted(f"Moving{figure}" for figure in FIGURES[:classes]))


def groups_of(clips_per_class: int) -> tuple[int, ...]:
    """The group (from 1) of each clip of a class, in order: about two clips per group, 3 to 25 groups."""
    groups = min(25, max(3, clips_per_class // 2))
    return tuple(1 + clip * groups // clips_per_class for clip in range(clips_per_class))


def tested_groups(groups: int, split: int) -> range:
    """The test groups of split 1, 2 or 3: as in UCF-101 about 7 of 25, consecutive and disjoint."""
    size = min(groups // 3, max(1, round(groups * 7 / 25)))
    return range(1 + (split - 1) * size, 1 + split * size)


def clip_ids(names: tuple[str, ...], clips_per_class: int) -> tuple[tuple[str, int], ...]:
    """(id, group) of every clip, sorted by class and name; an id is ``Class/v_Class_gNN_cNN``."""
    groups = groups_of(clips_per_class)
    return tuple(
        (f"{name}/v_{name}_g{group:02d}_c{1 + k - groups.index(group):02d}", group)
        for name in names
        for k, group in enumerate(groups)
    )


def with_moving_camera(clips: tuple[tuple[str, int], ...]) -> frozenset[str]:
    """The ids of the clips, given as by `clip_ids`, whose camera moves: the second, fourth, ... of each class."""
    classes = [clip_id.split("/")[0] for clip_id, _ in clips]
    return frozenset(id for k, (id, _) in enumerate(clips) if (k - classes.index(classes[k])) % 2)


def write_dataset(
    directory: Path,
    *,
    classes: int = 4,
    clips_per_class: int = 12,
    seed: int = 0,
    frames: int = 50,
    on_clip: Callable[[str, int, int], None] | None = None,
) -> Synth:
    """Write the data set described above into ``directory``.

    ``classes`` 2..12, ``clips_per_class`` 3..2475 (each split tests at least one group of each class),
    ``seed`` >= 0, ``frames`` 8..100000 in every clip; ``on_clip(id, done, total)`` is called after each clip.
    Equal arguments give equal pixels. An unfinished data set with the same arguments is completed, a finished one is
    left as it is. Raises FileExistsError for any other folder that is not empty, and ValueError for a number out of
    range, before anything is written.
    """
    names = class_names(classes)
    numbers = {"clips_per_class": clips_per_class, "seed": seed, "frames": frames}
    for (name, value), (low, high) in zip(numbers.items(), _LIMITS, strict=True):
        if not low <= value <= high:
            raise ValueError(f"{name} is {value}, expected {low} to {high}")
    directory = Path(directory)
    _claim(directory, {"format": 2, "classes": classes, **numbers})
    clips = clip_ids(names, clips_per_class)
    source, annotations = directory / "UCF-101", directory / "annotations" / "actors.json"
    splits = directory / "ucfTrainTestlist"
    _write_lists(splits, names, clips)
    actors, written, moving = {}, 0, with_moving_camera(clips)
    for done, (clip_id, group) in enumerate(clips, start=1):
        scene = compose(seed, clip_id, classes, frames, moving_camera=clip_id in moving)
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
    """Mark ``directory`` with a file of the arguments; FileExistsError if it has other contents or arguments."""
    marker = directory / _MARKER
    if directory.is_file() or (directory.is_dir() and any(directory.iterdir())):
        try:
            present = dict(json.loads(marker.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            reason = "is not empty and not from `mocrop synth`"
            raise FileExistsError(f"{directory} {reason}: choose a new folder") from None
        if present != made_by:
            differ = ", ".join(f"{k} {present.get(k)} not {v}" for k, v in made_by.items() if present.get(k) != v)
            raise FileExistsError(f"{directory} holds another synthetic data set ({differ}): choose a new folder")
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
    """Atomically write a file; create its folder if necessary."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(text.encode())
    part.replace(path)
