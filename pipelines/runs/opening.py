"""Opening a run: checks of its options, the store and its lock, and what a killed run left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from data_specs.local_files import refuse_links
from data_specs.recipes import Encode, Recipe
from data_specs.stored import StoreError, is_url, open_store, shown
from pipelines.atomic_files import sweep
from pipelines.disk_space import SPARE, free_bytes, least_bytes, mebibytes
from pipelines.errors import RunError
from pipelines.internal_errors import LOGS
from pipelines.media.ffmpeg_binary import FfmpegError
from pipelines.runs.cleanup import STORES, register, unfinished
from pipelines.runs.options import Options, Request, read_request
from pipelines.runs.run import Run
from pipelines.runs.source_index import SOURCES
from pipelines.stages.h264_cache import H264, Folders
from pipelines.stages.scratch import scratch_base, sweep_scratch
from pipelines.store.creation import is_made, make_or_reopen
from pipelines.store.lock import locked
from pipelines.store.progress import other_revision
from pipelines.store.record_index import RECORDS
from pipelines.store.software import news


def about_store(options: Options, recipe: Recipe) -> list[str]:
    """Lines about changes that a run will make to an existing store: new views, new versions."""
    try:
        store = open_store(options.location())
    except StoreError:
        return []
    if other_revision(store):  # the store will be refused
        return []
    new = ", ".join(view.name for view in recipe.views if view.name not in store.views)
    views = f"adding to the store: {new}, from the stored vectors{_made_again(options, recipe)}" if new else ""
    return [line for line in (views, news(store.attrs["software"])) if line]


def _made_again(options: Options, recipe: Recipe) -> str:
    """Which clips must be transcoded again for the crops of a new view."""
    if recipe.transcode == "keep":
        return ""
    if options.discard_h264:
        return "; all clips are transcoded again, because --discard-h264 keeps no H.264 files"
    if not any(Path(options.work_folder(), H264).rglob("*.mp4")):
        return f"; all clips are transcoded again, because {options.work_folder()} has no H.264 files"
    return "; missing H.264 files are made again"


@contextmanager
def open_run(options: Options, request: Request | None = None) -> Iterator[Run]:
    """Check the options, create or open the store and hold its lock; ``RunError`` if that fails.

    ``request`` is what `read_request` returned for the options, if the caller read it: reading a large data set again
    takes seconds.

    On exit, also after an error, the tables are written from the completed work and the lock is released.
    """
    dataset, recipe = request or read_request(options)
    try:
        location = options.location()
        folders = options.folders(dataset)
        _refuse_links(location, folders)
        if not is_made(location):
            _check_space(location, recipe, len(dataset.clips))
        with locked(location) as lock:
            notices = about_store(options, recipe)
            make_or_reopen(location, dataset, recipe)
            if lock.abandoned is not None:
                _sweep(location, folders, options)
            run = Run(options, dataset, recipe, lock, notices)
            lock.settled = True
            if isinstance(recipe.transcode, Encode):
                register(folders.work_dir, location)
            try:
                yield run
            except BaseException:
                with suppress(OSError, StoreError):  # may fail for the same reason, which is raised below
                    run.read_again()
                    run.publish()
                raise
            finally:
                if run.unclean:
                    _sweep(location, folders, options)
            run.publish()
    except (StoreError, FfmpegError) as error:
        raise RunError(str(error)) from error
    except OSError as error:
        raise RunError(f"{error.strerror or error} ({error.filename or shown(options.store)})") from error


def _refuse_links(location: str, folders: Folders) -> None:
    """Raise ``Linked`` if a subfolder that a run writes into is a symbolic link; store and work folder may be links."""
    for name in (H264, STORES, LOGS, SOURCES, RECORDS):
        refuse_links(Path(folders.work_dir), Path(folders.work_dir, name))
    if not is_url(location):
        for name in ("motion", "progress", "views"):
            refuse_links(Path(location), Path(location, name))


def _check_space(location: str, recipe: Recipe, clips: int) -> None:
    free, least = free_bytes(location), least_bytes(recipe, clips) + SPARE
    if free is not None and free < least:
        raise RunError(
            f"store {shown(location)!r}: {mebibytes(free)} are free, but at least {mebibytes(least)} needed; free some "
            "space, or process fewer clips, views or slots (mocrop plan gives a better estimate)"
        )


def _sweep(location: str, folders: Folders, options: Options) -> None:
    """Remove what a killed process left in the work folder, in a local store, and on the scratch of this machine."""
    for name in (H264, STORES, SOURCES, RECORDS):  # not the whole work folder, which other programs may use
        sweep(Path(folders.work_dir, name))
    if not is_url(location):
        for path in unfinished(Path(location)):
            path.unlink(missing_ok=True)
    with suppress(OSError):  # the workers' scratch folder need not exist on this machine
        sweep_scratch(scratch_base(options.scratch_folder()))
