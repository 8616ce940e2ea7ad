"""Weights from files, ours and those of other libraries: read without running code, loaded strictly."""

from __future__ import annotations

import argparse
import hashlib
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from training.options import Refused

PREFIXES = ("module.", "_orig_mod.", "backbone.", "base_model.")
"""What wrappers put before every key: DataParallel, torch.compile, the reference's test and train scripts."""
_HOLDERS = ("model", "state_dict", "model_state_dict", "state_dict_ema")
State = dict[str, Tensor]


def read_file(path: str | Path, flag: str = "--weights") -> dict[str, Any]:
    """All that is in a checkpoint; ``weights_only``, so that no code in it runs. `Refused` if it cannot be read.

    Of objects, ``argparse.Namespace`` alone is taken: so timm and torchvision keep the arguments of a training.
    """
    path = Path(path)
    if not path.is_file():
        raise Refused(f"{flag} {str(path)!r}: no such file")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        with torch.serialization.safe_globals([argparse.Namespace]):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise Refused(f"{flag} {str(path)!r}: {what_is_unsafe(error)}; save its state_dict() alone") from None
    except (RuntimeError, EOFError, ValueError, KeyError, SafetensorError) as error:
        raise Refused(f"{flag} {str(path)!r}: not a whole checkpoint ({_first_line(error)})") from None
    if not isinstance(found, Mapping):
        raise Refused(f"{flag} {str(path)!r}: holds {type(found).__name__}, not a state_dict")
    return dict(found)


def what_is_unsafe(error: pickle.UnpicklingError) -> str:
    """What a file holds that is not loaded: all that is ours of torch's many lines."""
    held = re.search(r"GLOBAL (\S+)", str(error))
    return f"more than plain tensors ({held[1]})" if held else "not what torch.save writes"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def sha256_of(path: str | Path) -> str:
    """The hash that names a checkpoint in results."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def state_of(found: Mapping[str, Any]) -> State:
    """The tensors by key, out of the dict that some checkpoints keep them in, without the prefixes of wrappers."""
    inner = next((found[key] for key in _HOLDERS if isinstance(found.get(key), Mapping)), found)
    state = {str(key): value for key, value in inner.items() if isinstance(value, Tensor)}
    while prefix := next((p for p in PREFIXES if state and all(key.startswith(p) for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def load_strictly(model: nn.Module, state: State, where: str) -> None:
    """Load every tensor of the model, no more and no less; `Refused` says which keys differ, and how."""
    if differences := _differences(model.state_dict(), state):
        raise Refused(f"{where} does not fit the model: {'; '.join(differences)}")
    model.load_state_dict(state, strict=True)


def load_for_finetuning(model: nn.Module, state: State, where: str) -> None:
    """As `load_strictly`, but a last layer for other classes stays as it is in the model."""
    own = model.state_dict()
    last = [name for name, part in model.named_modules() if isinstance(part, nn.Linear)][-1]
    keys = [key for key in (f"{last}.weight", f"{last}.bias") if key in own and key in state]
    head = {key: own[key] for key in keys if state[key].shape != own[key].shape}
    load_strictly(model, {**state, **head}, where)


def _differences(own: State, state: State) -> list[str]:
    missing = [key for key in own if key not in state]
    strange = [key for key in state if key not in own]
    shapes = [key for key in own if key in state and own[key].shape != state[key].shape]
    as_text = {key: f"{key} {tuple(state[key].shape)} there, {tuple(own[key].shape)} here" for key in shapes}
    found = []
    for keys, what in ((missing, "missing"), (strange, "not the model's"), (list(as_text.values()), "of other shape")):
        if keys:
            found.append(f"{len(keys)} {what} ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})")
    if shapes and not missing and not strange and len({own[key].shape[0] for key in shapes}) == 1:
        there, here = state[shapes[0]].shape[0], own[shapes[0]].shape[0]
        found.append(f"it was made for {there} classes, the store has {here}")
    elif missing and strange:
        found.append("it is of another architecture")
    return found
