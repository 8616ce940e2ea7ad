"""Load weights from files of mocrop and other libraries, strictly and without running code.

Checkpoints are untrusted: any problem is a one-line error, before anything is computed with them.
"""

from __future__ import annotations

import argparse
import hashlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from data_specs.locations import shown
from training.options import Refused

PREFIXES = ("module.", "_orig_mod.", "backbone.", "base_model.")
"""Prefixes that wrappers add to every key: DataParallel, torch.compile, the reference's test and train scripts."""
_HOLDERS = ("model", "state_dict", "model_state_dict", "state_dict_ema")
State = dict[str, Tensor]


def read_file(path: str | Path, flag: str = "--weights") -> dict[str, Any]:
    """Read a checkpoint with ``weights_only``, so that no code in it runs. `Refused` if it cannot be read.

    The only object accepted is ``argparse.Namespace``, in which timm and torchvision store training arguments.
    """
    path = Path(path)
    where = f"{flag} {shown(str(path))!r}"
    if not path.is_file():
        raise Refused(f"{where}: no such file")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        _check_archive(path)
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about tensor types that are refused below
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise Refused(f"{where}: {what_is_unsafe(error)}; save its state_dict() alone") from None
    except Exception as error:  # loaders raise undocumented exceptions for damaged bytes: show any
        raise Refused(f"{where}: not a complete checkpoint ({_first_line(error)})") from None
    if not isinstance(found, Mapping):
        raise Refused(f"{where}: holds {type(found).__name__}, not a state_dict")
    return dict(found)


def _check_archive(path: Path) -> None:
    """Raise ``ValueError`` for an archive with compressed entries, which may unpack to any size; torch writes none."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\3\4":
            return
    with zipfile.ZipFile(path) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError("its entries are compressed; torch.save writes them uncompressed")


def what_is_unsafe(error: pickle.UnpicklingError) -> str:
    """Return why a file was not loaded, in place of torch's long message."""
    held = re.search(r"GLOBAL (\S+)", str(error))
    return f"more than plain tensors ({held[1]})" if held else "not what torch.save writes"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def sha256_of(path: str | Path) -> str:
    """Return the hash that identifies a checkpoint in results."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def state_of(found: Mapping[str, Any]) -> State:
    """Return the tensors by key, from the nested dict that some checkpoints have, without the prefixes of wrappers."""
    inner = next((found[key] for key in _HOLDERS if isinstance(found.get(key), Mapping)), found)
    state = {str(key): value for key, value in inner.items() if isinstance(value, Tensor)}
    while prefix := next((p for p in PREFIXES if state and all(key.startswith(p) for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def load_strictly(model: nn.Module, state: State, where: str) -> None:
    """Load exactly the tensors of the model; `Refused` names the keys that differ, and how.

    Tensors must have the model's kind of dtype and a strided layout, and be finite where the model's own are.
    """
    if differences := _differences(model.state_dict(), state):
        raise Refused(f"{where} does not fit the model: {'; '.join(differences)}")
    model.load_state_dict(state, strict=True)


def load_for_finetuning(model: nn.Module, state: State, where: str) -> None:
    """Like `load_strictly`, but keep the model's last layer if its number of classes differs."""
    own = model.state_dict()
    last = [name for name, part in model.named_modules() if isinstance(part, nn.Linear)][-1]
    keys = [key for key in (f"{last}.weight", f"{last}.bias") if key in own and key in state]
    head = {key: own[key] for key in keys if state[key].shape != own[key].shape}
    load_strictly(model, {**state, **head}, where)


def _differences(own: State, state: State) -> list[str]:
    missing = [key for key in own if key not in state]
    strange = [key for key in state if key not in own]
    common = [key for key in own if key in state]
    shapes = [key for key in common if own[key].shape != state[key].shape]
    as_text = [f"{key} {tuple(state[key].shape)} there, {tuple(own[key].shape)} here" for key in shapes]
    kinds = [f"{key}: {kind}" for key in common if (kind := _wrong_kind(own[key], state[key]))]
    infinite = [] if shapes or kinds else [key for key in common if not _finite_as(own[key], state[key])]
    found = []
    for keys, what in (
        (missing, "missing"),
        (strange, "not the model's"),
        (as_text, "of other shape"),
        (kinds, "of another kind"),
        (infinite, "with values that are not finite"),
    ):
        if keys:
            names = ", ".join(key[:200] for key in keys[:3])
            found.append(f"{len(keys)} {what} ({names}{', …' if len(keys) > 3 else ''})")
    if shapes and not missing and not strange and len({own[key].shape[0] for key in shapes if own[key].ndim}) == 1:
        there, here = next((state[key].shape[:1], own[key].shape[0]) for key in shapes if own[key].ndim)
        if there:
            found.append(f"it was made for {there[0]} classes, the store has {here}")
    elif missing and strange:
        found.append("it is of another architecture")
    return found


def _wrong_kind(own: Tensor, value: Tensor) -> str:
    """Return why a tensor cannot be loaded into the model's; "" if it can."""
    if value.is_meta:
        return "a meta tensor, without values"
    if value.layout != torch.strided or value.is_quantized:
        return "sparse or quantised"
    same = (own.is_floating_point(), own.is_complex()) == (value.is_floating_point(), value.is_complex())
    return "" if same else f"{_dtype(value)} there, {_dtype(own)} here"


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _finite_as(own: Tensor, value: Tensor) -> bool:
    """Return whether a tensor is finite in the model's dtype, or the model's own is not (a mask of -inf)."""
    return bool(value.to(own.dtype).isfinite().all()) or not bool(own.isfinite().all())
