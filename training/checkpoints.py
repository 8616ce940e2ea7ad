"""Checkpoints: the complete state of a training, written atomically, to resume it bit for bit."""

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
"""Arguments that do not change the results. ``data_fingerprint`` covers the part of the store that is read, so other
views may change."""
_NAMED = {"seed", "arch", "view", "input_size", "split", "select", "classes", "store_fingerprint", "data_fingerprint"}
_STREAM = {"stream", "flow_frames", "remove_camera"}
_NO_SETTING = (UNIMPORTANT | _NAMED | _STREAM | {"channels_last", "compile", "device"}) - {"init_weights"}


def replaced(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file atomically: under a temporary name in the same folder, then renamed."""
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
    """Write a checkpoint of tensors, numbers, text, lists and dicts, which ``weights_only`` can read back."""
    replaced(path, lambda part: torch.save(dict(content), part))


def best_epoch(history: Sequence[dict[str, Any]], part: str) -> int:
    """Return the epoch with the highest top-1 on the list ``part``, the first of equal ones; 0 if there is none."""
    name = f"{part}_top1"
    evaluated = [row for row in history if name in row]
    return int(max(evaluated, key=lambda row: float(row[name]))["epoch"]) if evaluated else 0


def save_model(output: Path, content: Mapping[str, Any]) -> None:
    """Write model.pt, the checkpoint to report."""
    save(output / "model.pt", {key: content[key] for key in ("mocrop_checkpoint", "model", "epoch", "args")})


def write_csv(path: Path, history: Sequence[dict[str, Any]]) -> None:
    """Write a row for each epoch and a column for each metric."""
    columns = list(dict.fromkeys(name for row in history for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(history)


def random_states() -> dict[str, Any]:
    """Return the states of the global generators of torch, numpy and Python in this process, as plain values."""
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
    """Restore the generators to states from `random_states`."""
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])
    kind, keys, position, has_gauss, gauss = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, words, next_gauss = states["python"]
    random.setstate((version, tuple(words), next_gauss))


def settings_of(args: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that determine a training's results, except the seed, the machine and those a result names.

    The frequency and the number of frames of evaluations are included only if they selected the epoch.
    """
    looks = set() if args.get("select") in ("val", "test") else {"eval_freq", "val_segments"}
    return {key: args[key] for key in sorted(args) if key not in _NO_SETTING | looks}


def check_same(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise `Refused` with the arguments that differ from those the training was started with.

    With step decay the number of epochs may differ, since it does not change the earlier epochs.
    """
    free = UNIMPORTANT | ({"epochs"} if now.get("schedule") == "step" == saved.get("schedule") else set())
    differences = [
        "the lists of the store have other clips"
        if key == "data_fingerprint"
        else f"{key} was {saved.get(key)!r}, is {now.get(key)!r}"
        for key in sorted(saved.keys() | now.keys())
        if key not in free and saved.get(key) != now.get(key)
    ]
    if differences:
        raise Refused(f"--resume: started with other arguments: {'; '.join(differences)}")
