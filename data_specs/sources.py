"""Where to download public data sets: addresses, sizes, checksums and terms, in one table.

The addresses are from public documentation. Sizes and checksums were not measured here: they were published by others
who downloaded the files (the checksum tables of torchvision and TensorFlow Datasets; the size of UCF101.rar from two
public download scripts, the MD5 of hmdb51_org.rar from DeepMind's script and another). None means that none was
published; nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from data_specs import ucf101

_UCF = "https://www.crcv.ucf.edu"
_SERRE = "https://serre-lab.clps.brown.edu"
_UCF_PLAIN = "http://crcv.ucf.edu"  # plain HTTP: the checksum protects the download


@dataclass(frozen=True, slots=True)
class Archive:
    """One file to download: its name, addresses in the order to try, bytes, SHA-256 and MD5 (None: unknown)."""

    name: str
    urls: tuple[str, ...]
    size: int | None = None
    sha256: str | None = None
    md5: str | None = None

    @property
    def has_checksum(self) -> bool:
        """Whether a checksum was published."""
        return bool(self.sha256 or self.md5)


@dataclass(frozen=True, slots=True)
class Source:
    """A data set: its page, its terms of use, its archives, and what they contain.

    ``videos`` is the publisher's own archive and ``videos_zip`` a zip copy, which needs no program to unpack it, or
    None; ``nested`` means that ``videos`` holds one archive per class. ``folder`` and ``lists_folder`` are the folders
    that they are unpacked into, ``clips`` is the number of videos, and ``list_name`` is the name of one of the official
    lists. ``note`` is a line to show before the download.
    """

    title: str
    page: str
    terms: str
    videos: Archive
    videos_zip: Archive | None
    lists: Archive
    folder: str
    lists_folder: str
    list_name: str
    clips: int
    class_names: tuple[str, ...] = ()
    nested: bool = False
    note: str = ""


SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        "ucf101": Source(
            title="UCF-101 (Soomro, Zamir, Shah 2012), Center for Research in Computer Vision, University of Central "
            "Florida",
            page=f"{_UCF}/data/UCF101.php",
            terms="no licence is known: the clips belong to their uploaders on YouTube, and were collected for "
            "research. Read the page, and cite arXiv:1212.0402.",
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
            videos_zip=Archive(  # the copy that TensorFlow Datasets uses; all its clips are in one folder
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
            list_name="classInd.txt",
            clips=ucf101.CLIPS,
            class_names=ucf101.CLASSES,
        ),
        "hmdb51": Source(
            title="HMDB-51 (Kuehne, Jhuang, Garrote, Poggio, Serre 2011), Serre Lab, Brown University",
            page=f"{_SERRE}/resource/hmdb-a-large-human-motion-database/",
            terms="Creative Commons Attribution 4.0, by its page; the clips are of films and YouTube. Cite ICCV 2011.",
            videos=Archive(
                "hmdb51_org.rar",
                (f"{_SERRE}/wp-content/uploads/2013/10/hmdb51_org.rar",),
                md5="517d6f1f19f215c45cdd4d25356be1fb",
            ),
            videos_zip=None,
            lists=Archive(
                "test_train_splits.rar",
                (f"{_SERRE}/wp-content/uploads/2013/10/test_train_splits.rar",),
                md5="15e67781e70dcfbdce2d7dbb9b3344b5",
            ),
            folder="hmdb51",
            lists_folder="testTrainMulti_7030_splits",
            list_name="wave_test_split1.txt",
            clips=6_766,
            nested=True,
            note="its server was reported to be gone in 2025; if it does not answer, give a mirror with --url",
        ),
    }
)

ELSEWHERE: Mapping[str, str] = MappingProxyType(
    {
        "kinetics": "its videos are YouTube's; the Common Visual Data Foundation hosts copies and the official CSV: "
        "https://github.com/cvdfoundation/kinetics-dataset",
        "ssv2": "its publisher asks for an account and consent to its terms: "
        "https://developer.qualcomm.com/software/ai-datasets/something-something",
        "diving48": "its publisher's page: http://www.svcl.ucsd.edu/projects/resound/dataset.html",
        "jhmdb": "its publisher's page: http://jhmdb.is.tue.mpg.de",
    }
)
"""Data sets that ``mocrop index`` reads but ``mocrop fetch`` does not download, and where to get them."""
