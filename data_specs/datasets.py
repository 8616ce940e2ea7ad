"""Data sets of short clips: a folder of videos with its classes and splits, by clip table, class folders or lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data_specs import ucf101
from data_specs.class_folders import read_class_folders, read_listed_folders
from data_specs.clip_rows import Clip as Clip
from data_specs.clip_rows import Faults, Listing, clips_of
from data_specs.clip_tables import read_clip_table
from data_specs.discovery import UCF101, PassedOver
from data_specs.names import DatasetError as DatasetError
from data_specs.split_lists import NEITHER as NEITHER
from data_specs.split_lists import TEST as TEST
from data_specs.split_lists import TRAIN as TRAIN
from data_specs.split_lists import VALIDATION as VALIDATION


@dataclass(frozen=True, slots=True)
class Dataset:
    """A folder of clips with its classes and splits.

    ``clips`` are sorted by id, ``warnings`` are lines to show, ``passed_over`` counts unused files by kind.
    """

    name: str
    source: Path
    class_names: tuple[str, ...]
    clips: tuple[Clip, ...]
    warnings: tuple[str, ...] = ()
    passed_over: tuple[PassedOver, ...] = ()

    @property
    def notices(self) -> tuple[str, ...]:
        """All lines to show: the warnings, and one line for each kind of file that was passed over."""
        return (*self.warnings, *map(str, self.passed_over))

    def limited(self, count: int | None) -> Dataset:
        """The data set reduced to ``count`` clips spread evenly over the sorted ids; unchanged for None."""
        if count is None or count >= len(self.clips):
            return self
        if count < 1:
            raise DatasetError(f"limit {count}: give a number of clips of at least 1")
        total = len(self.clips)
        return replace(self, clips=tuple(self.clips[i * total // count] for i in range(count)))


def read_dataset(
    source: Path | str,
    splits: Path | str | None = None,
    clips: Path | str | None = None,
    class_names: Path | str | None = None,
    *,
    strict: bool = False,
) -> Dataset:
    """Read the folder ``source``, and the clip table ``clips`` or the split lists in the folder ``splits`` if given.

    With ``clips`` the rows of that table are the data set (`read_clip_table`); ``class_names`` is a file of its class
    names. Otherwise the folder holds ``<Class>/<clip>.<video suffix>``, with clips at any depth below the class (or it
    holds ``UCF-101/<Class>/…``, or, with lists that have labels, the videos themselves). Without lists the classes are
    the sorted folder names and no clip is in a split. With ``classInd.txt`` the lists are UCF-101's official ones,
    ``trainlist0N.txt`` and ``testlist0N.txt``, with labels from 1. Without it they are plain lists ``video.avi label``
    with labels from 0. `read_split_lists` defines which files are lists, and of which split.

    Raises a one-line ``DatasetError`` for contradictions. Listed clips whose files are missing are counted in a
    warning, or an error if ``strict``.
    """
    source = Path(source)
    if not source.is_dir():
        raise DatasetError(f"source {str(source)!r}: no such folder; give the folder that holds <Class>/<clip>.avi")
    if class_names is not None and clips is None:
        raise DatasetError(f"class_names {str(class_names)!r}: only a clip table takes class names; give --clips too")
    if clips is not None:
        if splits is not None:
            raise DatasetError(
                f"splits {str(splits)!r}: a clip table has its own splits, in the columns part, part2 and part3; give "
                "--clips or --splits"
            )
        names = None if class_names is None else Path(class_names)
        return _checked(*read_clip_table(Path(clips), source, names, strict=strict))
    listing = read_class_folders(source) if splits is None else read_listed_folders(source, Path(splits), strict=strict)
    return _checked(listing, Faults(listing.what))


def _checked(listing: Listing, faults: Faults) -> Dataset:
    names, clips = clips_of(listing, faults)
    return Dataset(_name(listing.root, names), listing.root, names, clips, listing.warnings, listing.passed_over)


def _name(source: Path, class_names: Sequence[str]) -> str:
    """The name of a data set: UCF-101, or its folder's name, or the parent's if UCF-101/ holds another data set."""
    if tuple(class_names) == ucf101.CLASSES:
        return UCF101
    is_part = set(map(str.casefold, class_names)) <= set(map(str.casefold, ucf101.CLASSES))
    return source.name if is_part or source.name != UCF101 else source.resolve().parent.name
