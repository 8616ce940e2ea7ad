"""Where public data sets are to be had: addresses, sizes, checksums and terms, in one table.

The addresses are those that public documentation gives. Sizes and checksums were not measured here: they are what
others published who had downloaded the files (torchvision's and TensorFlow Datasets' tables of checksums; the
RAR's size from two public download scripts). None stands for "nobody published it", never for a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from data_specs import ucf101

_UCF = "https://www.crcv.ucf.edu"
_UCF_PLAIN = "http://crcv.ucf.edu"  # the checksum makes up for what the connection lacks


@dataclass(frozen=True, slots=True)
class Archive:
    """One file to download: its name, its addresses in the order to try, bytes and SHA-256 (None: unknown)."""

    name: str
    urls: tuple[str, ...]
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """A data set: its page, the terms it is given under, its archives, and what it holds once unpacked.

    ``videos`` is the publisher's own archive and ``videos_zip`` a copy that needs no program to unpack it;
    ``folder`` and ``lists_folder`` are the folders they become, ``clips`` is the number of videos.
    """

    title: str
    page: str
    terms: str
    videos: Archive
    videos_zip: Archive
    lists: Archive
    folder: str
    lists_folder: str
    clips: int
    class_names: tuple[str, ...]


SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        "ucf101": Source(
            title="UCF-101 (Soomro, Zamir, Shah 2012), Center for Research in Computer Vision, University of Central "
            "Florida",
            page=f"{_UCF}/data/UCF101.php",
            terms="we know of no licence for it: the clips are their uploaders', from YouTube, collected for research. "
            "Read the page, and cite arXiv:1212.0402.",
            videos=Archive(
                "UCF101.rar",
                (
                    f"{_UCF}/data/UCF101/UCF101.rar",
                    f"{_UCF}/datasets/human-actions/ucf101/UCF101.rar",
                    f"{_UCF_PLAIN}/data/UCF101/UCF101.rar",
                ),
                6_932_971_618,
                "ca8dfadb4c891cb11316f94d52b6b0ac2a11994e67a0cae227180cd160bd8e55",
            ),
            videos_zip=Archive(  # the copy that TensorFlow Datasets uses; its clips lie in one folder
                "UCF101_videos.zip",
                ("https://storage.googleapis.com/thumos14_files/UCF101_videos.zip",),
                6_960_400_115,
                "dabf56f573cd19c79e096563529fec8126a2a34e18e10c72eb621dd687532b0d",
            ),
            lists=Archive(
                "UCF101TrainTestSplits-RecognitionTask.zip",
                (
                    f"{_UCF}/data/UCF101/UCF101TrainTestSplits-RecognitionTask.zip",
                    f"{_UCF}/wp-content/uploads/2019/03/UCF101TrainTestSplits-RecognitionTask.zip",
                    f"{_UCF_PLAIN}/data/UCF101/UCF101TrainTestSplits-RecognitionTask.zip",
                ),
                113_943,
                "5c0d1a53b8ed364a2ac830a73f405e51bece7d98ce1254fd19ed4a36b224bd27",
            ),
            folder="UCF-101",
            lists_folder="ucfTrainTestlist",
            clips=ucf101.CLIPS,
            class_names=ucf101.CLASSES,
        )
    }
)
