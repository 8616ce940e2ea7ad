"""The published numbers of clips of public data sets, for comparison with what an index finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from data_specs import ucf101


@dataclass(frozen=True, slots=True)
class Published:
    """The clips and classes of a data set; ``splits`` has, by split, the clips of train, val and test (None: unknown).

    ``source`` says where the numbers are from.
    """

    title: str
    clips: int
    classes: int
    source: str
    splits: Mapping[int, tuple[int | None, int | None, int | None]] = field(default_factory=dict)


PUBLISHED: Mapping[str, tuple[Published, ...]] = {
    "ucf101": (
        Published(
            "UCF-101",
            ucf101.CLIPS,
            len(ucf101.CLASSES),
            "the official lists; Soomro, Zamir, Shah, arXiv:1212.0402",
            {split: (train, 0, test) for split, (train, test) in ucf101.SPLITS.items()},
        ),
    ),
    "hmdb51": (
        Published(
            "HMDB-51",
            6_766,
            51,
            "the official lists: 70 train and 30 test clips of each class; Kuehne and others, ICCV 2011",
            dict.fromkeys((1, 2, 3), (3_570, 0, 1_530)),
        ),
    ),
    "jhmdb": (Published("J-HMDB", 928, 21, "the official lists; Jhuang and others, ICCV 2013", {1: (660, 0, 268)}),),
    "kinetics": (
        Published("Kinetics-400", 306_245, 400, "Kay and others, arXiv:1705.06950", {1: (None, 20_000, 40_000)}),
        Published("Kinetics-600", 495_547, 600, "Carreira and others, arXiv:1808.01340"),
        Published("Kinetics-700", 650_317, 700, "Carreira and others, arXiv:1907.06987"),
    ),
    "ssv2": (
        Published(
            "Something-Something V2",
            220_847,
            174,
            "the publisher's page; Goyal and others, arXiv:1706.04261",
            {1: (168_913, 24_777, 27_157)},
        ),
    ),
    "diving48": (Published("Diving48", 18_404, 48, "the videos in Diving48_rgb.tar.gz; Li and others, ECCV 2018"),),
}
"""By format; editions of one format differ in their number of classes."""


def edition(format: str, classes: int) -> Published | None:
    """The data set of a format with this number of classes, or the format's only one; None if unknown."""
    editions = PUBLISHED.get(format, ())
    if len(editions) == 1:
        return editions[0]
    return next((one for one in editions if one.classes == classes), None)
