"""Text files of clips: UCF-101's lists, the ``_test_splitN.txt`` of HMDB-51 and J-HMDB, and MMAction2's lists."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from data_specs.clip_rows import PART_CODES, Faults, Part
from data_specs.discovery import VIDEO_SUFFIXES
from data_specs.indexing.entries import Entry, Listed
from data_specs.names import DatasetError, NameIndex, printable
from data_specs.split_lists import CLASS_INDEX, numbered_lines, read_class_index, split_and_part

UCF101_LIST = re.compile(r"(train|test)list0([123])\.txt")
TEST_SPLIT = re.compile(r"(.+)_test_split([123])\.txt")
LABEL_MAP = re.compile(r"label_?map.*\.txt", re.IGNORECASE)
_GROUP = re.compile(r"(v_.+_g\d+)_c\d+")
_CODES: Mapping[str, Part] = {"0": "", "1": "train", "2": "test"}
_NAMES: Mapping[int, Part] = {code: part for part, code in PART_CODES.items()}
_WHOLE = re.compile(r"[0-9]{1,9}")


def read_ucf101(files: Sequence[Path], faults: Faults) -> Listed:
    """UCF-101's ``classInd.txt`` (``1 ApplyEyeMakeup``), ``trainlist0N.txt`` and ``testlist0N.txt``.

    A line is ``ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1`` in a train list, labels from 1, and the path alone in a
    test list (UCF101TrainTestSplits-RecognitionTask.zip of the publisher). The class is the folder of the path.
    """
    index = next(path for path in files if path.name == CLASS_INDEX)
    names = read_class_index(index)
    classes = NameIndex(names)
    entries = []
    lists = [(found, path) for path in files if (found := UCF101_LIST.fullmatch(path.name))]
    for found, path in lists:
        part: Part = "train" if found[1] == "train" else "test"
        for number, line in numbered_lines(path):
            where = f"{path.name} line {number}"
            name, _, label = line.partition(" ")
            named = classes.find(PurePosixPath(name).parent.name)
            if len(named) != 1:
                faults.add(f"{where}: the folder of {printable(name)!r} is not a class of {CLASS_INDEX}")
            elif label.strip() and label.strip() != str(names.index(named[0]) + 1):
                faults.add(
                    f"{where}: {printable(name)!r} has label {printable(label)}, but its folder is another class"
                )
            else:
                group = _GROUP.fullmatch(PurePosixPath(name).stem)
                entries.append(Entry((name,), named[0], part, where, int(found[2]), group[1] if group else ""))
    return Listed(entries, names, f"{CLASS_INDEX} and {len(lists)} lists (trainlist01.txt …)")


def read_test_splits(files: Sequence[Path], faults: Faults) -> Listed:
    """The files ``<class>_test_split<N>.txt`` of HMDB-51 (testTrainMulti_7030_splits) and J-HMDB (splits).

    A line is ``<clip>.avi <code>``: 1 train, 2 test, 0 neither, as the publisher's split_readme.txt says. Labels are
    the classes in order of their names.
    """
    entries, classes = [], set()
    lists = [(found, path) for path in files if (found := TEST_SPLIT.fullmatch(path.name))]
    for found, path in lists:
        classes.add(found[1])
        for number, line in numbered_lines(path):
            where = f"{path.name} line {number}"
            name, _, code = line.rpartition(" ")
            if code not in _CODES or not name.strip():
                faults.add(f"{where}: {printable(line)!r} is not a clip followed by 0 (neither), 1 (train) or 2 (test)")
            else:
                entries.append(Entry((f"{found[1]}/{name.strip()}",), found[1], _CODES[code], where, int(found[2])))
    return Listed(entries, tuple(sorted(classes)), f"{len(lists)} files <class>_test_split<N>.txt")


def read_mmaction2(files: Sequence[Path], faults: Faults) -> Listed:
    """MMAction2's lists: ``some/path/000.mp4 1`` for videos, ``some/directory-1 163 1`` for folders of frames.

    A line is a path, in the second form its number of frames, and one label from 0 (MMAction2's documentation,
    "Customize Datasets"); the file's name gives the part and the split (``kinetics400_train_list_videos.txt``,
    ``hmdb51_val_split_1_rawframes.txt``). A folder of frames stands for the video of that name. Class names are those
    of a ``label_map….txt`` next to the lists, else the folders that hold the clips of one label only, else
    ``class_<label>``.
    """
    found = []
    lists = [(place, path) for path in mmaction2_lists(files) if (place := split_and_part(path.name))]
    forms: dict[str, str] = {}
    for (split, part), path in lists:
        for number, (name, frames, label) in _mmaction2_lines(path, faults):
            form = "videos" if frames is None else "folders of frames"
            forms.setdefault(form, path.name)
            found.append((name, label, _NAMES[part], f"{path.name} line {number}", split))
    if len(forms) > 1:
        raise DatasetError(f"{' and '.join(f'{name} lists {form}' for form, name in forms.items())}; give one kind")
    names = _mmaction2_classes(files, [(name, label) for name, label, *_ in found], faults.where)
    entries = [Entry((name,), names[label], part, where, split) for name, label, part, where, split in found]
    what = f"lists of {next(iter(forms), 'videos')}"
    return Listed(entries, names, f"{len(lists)} {what} ({lists[0][1].name} …)" if lists else what)


def mmaction2_lists(files: Sequence[Path]) -> list[Path]:
    """The text files whose names contain a part, without the lists of other formats."""
    others = (UCF101_LIST, TEST_SPLIT, LABEL_MAP)
    return [
        path
        for path in files
        if path.suffix == ".txt"
        and path.name != CLASS_INDEX
        and not any(other.fullmatch(path.name) for other in others)
        and split_and_part(path.name)
    ]


def _mmaction2_lines(path: Path, faults: Faults) -> Iterator[tuple[int, tuple[str, int | None, int]]]:
    """The number, path, frames (None in a list of videos) and label of each line."""
    for number, line in numbered_lines(path):
        words = line.split()
        numbers = next((at for at, word in enumerate(reversed(words)) if not _WHOLE.fullmatch(word)), len(words))
        name = line.rsplit(None, numbers)[0] if 0 < numbers < len(words) else ""
        is_video = PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES
        if not name or numbers != (1 if is_video else 2):
            form = "a video's path and one label" if is_video else "a folder, its number of frames, and one label"
            faults.add(f"{path.name} line {number}: {printable(line)[:80]!r} is not {form}")
            continue
        yield number, (name, None if is_video else int(words[-2]), int(words[-1]))


def _mmaction2_classes(files: Sequence[Path], found: Sequence[tuple[str, int]], where: str) -> tuple[str, ...]:
    count = max((label for _, label in found), default=-1) + 1
    maps = [path for path in files if LABEL_MAP.fullmatch(path.name)]
    if len(maps) > 1:
        raise DatasetError(f"{where}: {maps[0].name} and {maps[1].name} both name classes; keep only one of them")
    if maps:
        names = tuple(line for _, line in numbered_lines(maps[0]))
        if len(names) < count:
            raise DatasetError(
                f"{maps[0].name} names {len(names)} classes, and the lists have labels up to {count - 1}"
            )
        return names
    if count > len(found):
        raise DatasetError(
            f"{where}: the labels go up to {count - 1}, but the number of clips is {len(found)}; labels count from 0"
        )
    folders: defaultdict[int, set[str]] = defaultdict(set)
    labels: defaultdict[str, set[int]] = defaultdict(set)
    for name, label in found:
        folder = PurePosixPath(name).parent.name
        folders[label].add(folder)
        labels[folder].add(label)
    named = {
        label: next(iter(inside))
        for label, inside in folders.items()
        if len(inside) == 1 and all(folder and len(labels[folder]) == 1 for folder in inside)
    }
    return tuple(named.get(label, f"class_{label}") for label in range(count))
