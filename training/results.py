"""Gather test results into a table: ``python -m training.results DIR``."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_specs.documents import parse_json
from data_specs.local_files import read_part
from data_specs.text import printable
from training import tables
from training.options import Failed, OneLineParser, Refused, exit_status, expanded_path

NAMES = {
    "resnet50": "ResNet-50",
    "resnet152": "ResNet-152",
    "mobilenet_v3_large": "MobileNet-V3",
    "efficientnet_b1": "EfficientNet-B1",
    "swin_t": "Swin-T",
    "swin_b": "Swin-B",
}
"""Names of the backbones in the reference's table."""
EPOCHS = {"last": "last", "val": "best on validation list", "test": "best on test list"}
HEADS = ("Backbone", "Variant", "Top-1 Acc. (%)", "GFLOPs", "Δ Acc. (%)", "Δ FLOPs (%)", "Seeds", "Epoch", "Tested on")
EXAMPLES = """examples:
  on the terminal   python -m training.results results
  for a README      python -m training.results results --format markdown
"""


RGB = "rgb"
MOST_BYTES = 1 << 26  # of a result
Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, order=True)
class Variant:
    """What results must share to be averaged over seeds: training, test, and how the epoch was selected.

    ``stream`` is what the network saw: "rgb", the motion stream, or what was fused. ``settings`` are the training
    arguments that no other field names; ``boxes`` the fingerprints of the views used in training and testing, by name;
    ``amp`` refers to the test.
    """

    dataset: str
    split: int
    clips: int
    segments: int
    epoch: str
    arch: str
    trained_view: str
    trained_size: int
    view: str
    size: int
    amp: bool
    stream: str
    settings: Pairs
    boxes: Pairs

    @property
    def is_baseline(self) -> bool:
        """Whether it was trained and tested on whole frames of one size."""
        return self.stream == RGB and self.trained_view == self.view == "full" and self.trained_size == self.size

    @property
    def settings_of_any_stream(self) -> Pairs:
        """The training arguments, except one that the motion stream alone has."""
        return tuple(pair for pair in self.settings if pair[0] != "first_conv")

    @property
    def details(self) -> dict[str, str]:
        """Settings that the table shows only where they differ, as text."""
        precision = {"tested in": "bf16" if self.amp else "fp32"}
        return {name.replace("_", "-"): value for name, value in (*self.settings, *self.boxes)} | precision

    def title(self, baseline_size: int | None) -> str:
        """Return the name in the table: the reference's if it has one, else a description."""
        trained = f"{self.trained_view} at {self.trained_size}px" if self.trained_view else "unknown"
        if self.stream != RGB:
            return f"{self.stream}: {self.view} ({self.size}px), trained on {trained}"
        if self.is_baseline:
            return f"Baseline ({self.size}px)"
        if self.trained_view == self.view == "mocrop":
            if self.size > self.trained_size:
                return f"+ MoCrop (Attention, {self.size}px), trained at {self.trained_size}px"
            if self.size == self.trained_size:
                smaller = baseline_size is not None and self.size < baseline_size
                return f"+ MoCrop ({'Efficiency, ' if smaller else ''}{self.size}px)"
        return f"control: {self.view} ({self.size}px), trained on {trained}"


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table: accuracy in %, 1e9 multiply-adds, and differences from the baseline (None without one)."""

    variant: Variant
    title: str
    top1: float
    deviation: float | None
    gflops: float
    accuracy_change: float | None
    flops_change: float | None
    seeds: int

    def cells(self) -> list[str]:
        """Return the row as text."""
        v = self.variant
        spread = "" if self.deviation is None else f" ± {self.deviation:.1f}"
        is_reference = v.is_baseline and self.accuracy_change == 0 == self.flops_change
        plain = is_reference or self.accuracy_change is None or self.flops_change is None
        changes = ["-", "-"] if plain else [f"{self.accuracy_change:+.1f}", f"{self.flops_change:+.1f}"]
        tested = f"{v.dataset} split {v.split}: {v.clips} clips, {v.segments} frames"
        figures = [f"{self.top1:.1f}{spread}", f"{self.gflops:.2f}", *changes]
        cells = [NAMES.get(v.arch, v.arch), self.title, *figures, str(self.seeds), v.epoch, tested]
        return [printable(cell) for cell in cells]

    def record(self) -> dict[str, Any]:
        """Return the row as JSON values."""
        figures = {key: value for key, value in asdict(self).items() if key != "variant"}
        details = {key: dict(value) for key, value in asdict(self.variant).items() if key in ("settings", "boxes")}
        return asdict(self.variant) | details | figures


def read_results(folder: Path) -> dict[Path, dict[str, Any]]:
    """Read all results below a folder, each test of a checkpoint once; `Refused` or `Failed` if that is impossible."""
    if not folder.is_dir():
        raise Refused(f"DIR {str(folder)!r}: no such folder; python -m training.test writes results")
    found: dict[tuple[Variant, str], tuple[Path, dict[str, Any]]] = {}
    for path in sorted(folder.rglob("*.json")):
        content = _read(path)
        if content is not None:
            found[variant_of(content), content["checkpoint"]["sha256"]] = path, content
    if not found:
        raise Refused(f"DIR {str(folder)!r}: no result in it; training.test --output-dir {folder} writes them")
    return dict(found.values())


def read_result(path: Path) -> dict[str, Any]:
    """Read one result; `Refused` for a file that is missing or none, `Failed` for one that is damaged."""
    if not path.is_file():
        raise Refused(f"RESULT {str(path)!r}: no such file; python -m training.test writes results as JSON")
    content = _read(path)
    if content is None:
        raise Refused(f"RESULT {str(path)!r}: not a result of training.test; give the JSON file that it wrote")
    return content


def _read(path: Path) -> dict[str, Any] | None:
    """The result in a file; None for another file, `Failed` for a damaged one."""
    try:
        content = parse_json(read_part(path, None, MOST_BYTES) or b"", MOST_BYTES)
        if not isinstance(content, dict) or content.get("mocrop_result") != 1:
            return None
        _check_result(content)
        variant_of(content)
    except (OSError, ValueError) as error:
        raise Failed(f"{str(path)!r} cannot be read: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise Failed(f"{str(path)!r} is not a complete result ({what}); run training.test again") from error
    return content


def _check_result(content: Mapping[str, Any]) -> None:
    """Raise ``KeyError`` or ``TypeError`` unless a result has all fields of a row, with the right types."""
    kinds = {"split": int, "clips": int, "segments": int, "input_size": int, "amp": bool}
    kinds |= dict.fromkeys(("arch", "view", "view_fingerprint"), str)
    for name, kind in kinds.items():
        if type(content[name]) is not kind:
            raise TypeError(f"{name} is {str(content[name])[:40]!r}")
    for name, most in (("top1", 100.0), ("gflops", 1e9)):
        if isinstance(content[name], bool) or not isinstance(content[name], int | float):
            raise TypeError(f"{name} is not a number")
        if not 0 <= content[name] <= most:
            raise TypeError(f"{name} is {content[name]:g}")
    if type(content.get("stream", RGB)) is not str:
        raise TypeError(f"stream is {str(content['stream'])[:40]!r}")
    trained = content["trained"]
    for name, kind in (("view", str), ("input_size", int), ("seed", int), ("select", str)):
        if trained.get(name) is not None and type(trained[name]) is not kind:
            raise TypeError(f"trained.{name} is {str(trained[name])[:40]!r}")
    if type(content["checkpoint"]["sha256"]) is not str:
        raise TypeError("checkpoint.sha256 is not a string")


def variant_of(result: Mapping[str, Any]) -> Variant:
    """Return the variant of a result."""
    trained = result["trained"]
    settings = {key: str(value) for key, value in sorted(trained.get("settings", {}).items())}
    boxes = {f"boxes of {result['view']}": result["view_fingerprint"][:8]}
    if "view_fingerprint" in settings:
        boxes[f"trained on boxes of {trained['view']}"] = settings.pop("view_fingerprint")[:8]
    return Variant(
        dataset=str(result["dataset"]),
        split=result["split"],
        clips=result["clips"],
        segments=result["segments"],
        epoch=EPOCHS.get(trained.get("select"), "unknown"),
        arch=result["arch"],
        trained_view=trained.get("view") or "",
        trained_size=trained.get("input_size") or 0,
        view=result["view"],
        size=result["input_size"],
        amp=result["amp"],
        stream=result.get("stream", RGB),
        settings=tuple(settings.items()),
        boxes=tuple(sorted(boxes.items())),
    )


def table(results: Iterable[Mapping[str, Any]]) -> list[Row]:
    """The rows: backbone by backbone, the baseline first, then MoCrop, the controls, the motion stream, fused runs.

    Accuracies are means over seeds. Titles name the other settings in which the rows of a backbone differ.
    """
    groups: dict[Variant, list[Mapping[str, Any]]] = defaultdict(list)
    for result in results:
        groups[variant_of(result)].append(result)
    rows = []
    for variant, mine in groups.items():
        baseline = _baseline(variant, groups)
        title = variant.title(None if baseline is None else baseline.size)
        title = ", ".join([title, *_differences(variant, groups)])
        top1 = _by_seed(mine)
        gflops = mine[0]["gflops"]
        changes: tuple[float | None, float | None] = (None, None)
        if baseline is not None:
            theirs = groups[baseline]
            accuracy = statistics.mean(top1) - statistics.mean(_by_seed(theirs))
            changes = accuracy, 100 * (gflops / theirs[0]["gflops"] - 1) if theirs[0]["gflops"] else None
        deviation = statistics.stdev(top1) if len(top1) > 1 else None
        rows.append(Row(variant, title, statistics.mean(top1), deviation, gflops, *changes, len(top1)))
    archs = {arch: place for place, arch in enumerate(NAMES)}
    kinds = ("Baseline", "+ MoCrop", "control", "")
    return sorted(
        rows,
        key=lambda row: (
            archs.get(row.variant.arch, len(archs)),
            row.variant.arch,
            next(place for place, kind in enumerate(kinds) if row.title.startswith(kind)),
            row.variant,
        ),
    )


def _by_seed(results: Iterable[Mapping[str, Any]]) -> list[float]:
    """Return the top-1 of each seed, averaged over repeated trainings; a checkpoint without a seed counts as one."""
    found: dict[object, list[float]] = defaultdict(list)
    for result in results:
        seed = result["trained"].get("seed")
        found[result["checkpoint"]["sha256"] if seed is None else seed].append(result["top1"])
    return [statistics.mean(top1) for top1 in found.values()]


def _differences(variant: Variant, groups: Iterable[Variant]) -> list[str]:
    """Return the settings of a variant that differ from another variant of the same backbone."""
    others = [other.details for other in groups if other.arch == variant.arch]
    return [
        f"{name} {value}"
        for name, value in variant.details.items()
        if any(other.get(name, value) != value for other in others)
    ]


def _baseline(variant: Variant, groups: Iterable[Variant]) -> Variant | None:
    """Return the matching variant trained and tested on whole frames, at 224 px or else at the largest size."""

    def alike(other: Variant) -> bool:
        names = ("dataset", "split", "clips", "segments", "epoch", "arch", "amp", "settings_of_any_stream")
        return all(getattr(variant, name) == getattr(other, name) for name in names)

    found = [other for other in groups if other.is_baseline and alike(other)]
    return max(found, key=lambda other: (other.size == 224, other.size, other == variant, other.boxes), default=None)


def as_table(rows: Sequence[Row]) -> tables.Table:
    """The rows as a printable table."""
    return tables.Table(HEADS, [row.cells() for row in rows], [row.record() for row in rows])


def as_text(rows: Sequence[Row]) -> str:
    """The table for a terminal."""
    return tables.as_text(as_table(rows))


def parser() -> argparse.ArgumentParser:
    """Return the command-line parser."""
    p = OneLineParser(prog="python -m training.results", description=__doc__.splitlines()[0], epilog=EXAMPLES)
    p.add_argument("folder", type=expanded_path, metavar="DIR", help="folder with the results of training.test")
    p.add_argument("--format", choices=tuple(tables.FORMATS), default="text", help="format of the table")
    return p


def work(args: argparse.Namespace) -> None:
    """Print the table."""
    print(tables.FORMATS[args.format](as_table(table(read_results(Path(args.folder)).values()))))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    return exit_status(lambda: work(parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
