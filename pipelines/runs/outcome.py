"""The result of a run, in one line and as the table on Prefect's page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from data_specs.discovery import PassedOver
from data_specs.schema import NOTES
from pipelines.errors import RunError
from pipelines.store.software import mixed
from pipelines.store.summary import Summary

LISTED = 1000  # quarantined clips in the table, at most
EXAMPLES = 3  # clips shown for each kind of note


def in_one_line(summary: Summary) -> str:
    """The clips of a run by state."""
    quarantined = len(summary.quarantined)
    noted = "".join(f"; {about}: {count}" for _, about, count, _ in notes(summary))
    counts = f"{summary.what}: {summary.done} done, {quarantined} quarantined, {summary.pending} pending"
    return "; ".join([counts + noted, *mixed(summary.software)])


def notes(summary: Summary) -> Iterator[tuple[str, str, int, list[tuple[str, str]]]]:
    """For each kind of note: the kind, its meaning, the number of clips, and the first few clips with their text."""
    for kind, texts in summary.notes.items():
        yield kind, NOTES.get(kind, kind), len(texts), sorted(texts.items())[:EXAMPLES]


def too_many_quarantined(summary: Summary, max_quarantined: float) -> str | None:
    """Why a run counts as failed, if more than the fraction ``max_quarantined`` of its clips is quarantined."""
    quarantined = len(summary.quarantined)
    if quarantined <= max_quarantined * summary.clips:
        return None
    id, reason = min(summary.quarantined.items())
    return (
        f"{quarantined} of {summary.clips} clips are quarantined, more than --max-quarantined {max_quarantined:g} "
        f"allows ({id}: {reason}); mocrop status lists them"
    )


def table(summary: Summary, passed_over: Sequence[PassedOver] = ()) -> list[dict[str, Any]]:
    """Rows for the counts, shards by stage, notes by kind, skipped files, mixed versions and quarantined clips."""
    counts = {
        "clips": summary.clips,
        "done": summary.done,
        "pending": summary.pending,
        "quarantined": len(summary.quarantined),
    }
    rows = [{"what": what, "count": count, "detail": ""} for what, count in counts.items()]
    for stage, (done, of) in summary.stages.items():
        rows.append({"what": f"stage {stage}", "count": done, "detail": f"of {of} shards"})
    for kind, about, count, examples in notes(summary):
        detail = "; ".join(f"{id}: {text}" for id, text in examples)
        rows.append({"what": f"note {kind}", "count": count, "detail": f"{about} ({detail})"})
    for group in passed_over:
        rows.append({"what": "passed over", "count": group.count, "detail": group.detail})
    rows += [{"what": "software", "count": 1, "detail": line} for line in mixed(summary.software)]
    listed = sorted(summary.quarantined.items())[:LISTED]
    rows += [{"what": id, "count": 1, "detail": reason} for id, reason in listed]
    if left := len(summary.quarantined) - len(listed):
        rows.append({"what": "more quarantined clips", "count": left, "detail": "see mocrop status"})
    return rows


def failed_shards(stage: str, failed: dict[int, str], attempts: int) -> str:
    """Why a stage stopped, in one line: the number of shards that failed in all attempts, and the first one's error."""
    shard, error = min(failed.items())
    shards = f"shard {shard}" if len(failed) == 1 else f"{len(failed)} shards, the first {shard},"
    return f"{stage}: {shards} failed {attempts} times: {error}; completed work is kept, run the same command again"


class TooManyQuarantined(RunError):
    """A run finished, but quarantined too many clips; ``summary`` lists them."""

    def __init__(self, problem: str, summary: Summary) -> None:
        super().__init__(problem)
        self.summary = summary
