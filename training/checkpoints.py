"""A training's state on disk: all that it needs to go on as if it had never stopped, written beside and renamed."""

from __future__ import annotations

import csv
import os
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.options import Refused

VERSION = 1  # of checkpoints

UNIMPORTANT = frozenset(
    {"resume", "output_dir", "print_freq", "workers", "store", "store_fingerprint", "init_weights", "cpu"}
    | {"train_mode", "crop_ratio", "mv_h", "mv_w"}
)
"""Arguments that do not change the numbers. ``data_fingerprint`` compares what is read of the store: its other views
may change."""
_NAMED = {"seed", "arch", "view", "input_size", "split", "select", "classes", "store_fingerprint", "data_fingerprint"}
_NO_SETTING = (UNIMPORTANT | _NAMED | {"channels_last", "compile", "device"}) - {"init_weights"}


def replaced(path: Path, write: Callable[[Path], object]) -> None:
    """Have a file written under a name beside it and renamed when it is whole, so that no reader meets half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint of tensors, numbers, text, lists and dicts: what ``weights_only`` reads back."""
    replaced(path, lambda part: torch.save(dict(content), part))


def best_epoch(history: Sequence[dict[str, Any]], part: str) -> int:
    """The epoch with the highest top-1 on the list ``part``, the first of equal ones; 0 if none was looked at."""
    name = f"{part}_top1"
    looked_at = [row for row in history if name in row]
    return int(max(looked_at, key=lambda row: float(row[name]))["epoch"]) if looked_at else 0


def save_model(output: Path, content: Mapping[str, Any]) -> None:
    """Write the checkpoint that is to be reported."""
    save(output / "model.pt", {key: content[key] for key in ("mocrop_checkpoint", "model", "epoch", "args")})


def write_csv(path: Path, history: Sequence[dict[str, Any]]) -> None:
    """A row for each epoch, a column for each figure that any of them has."""
    columns = list(dict.fromkeys(name for row in history for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(history)


def random_states() -> dict[str, Any]:
    """The states of torch's, numpy's and Python's global generators in this process, as plain values."""
    legacy: Any = np.random.get_state(legacy=True)
    kind, keys, position, has_gauss, gauss = legacy
    version, words, next_gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss],
        "python": [version, list(words), next_gauss],
    }


def set_random_states(states: Mapping[str, Any]) -> None:
    """Put the generators where `random_states` found them."""
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])
    kind, keys, position, has_gauss, gauss = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, words, next_gauss = states["python"]
    random.setstate((version, tuple(words), next_gauss))


def settings_of(args: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the figures of a training: its arguments without the seed, the machine, and what a result names.

    How often and on how many frames a list was looked at counts only where it chose the epoch.
    """
    looks = set() if args.get("select") in ("val", "test") else {"eval_freq", "val_segments"}
    return {key: args[key] for key in sorted(args) if key not in _NO_SETTING | looks}


def check_same(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """`Refused` lists the arguments in which a training that is to go on differs from the one that was begun.

    More or fewer epochs are no difference with step decay, where they do not change the ones before.
    """
    free = UNIMPORTANT | ({"epochs"} if now.get("schedule") == "step" == saved.get("schedule") else set())
    differences = [
        "the store has other clips in its lists"
        if key == "data_fingerprint"
        else f"{key} was {saved.get(key)!r}, is {now.get(key)!r}"
        for key in sorted(saved.keys() | now.keys())
        if key not in free and saved.get(key) != now.get(key)
    ]
    if differences:
        raise Refused(f"--resume: begun with other arguments: {'; '.join(differences)}")
