"""Validation of untrusted checkpoints: arguments, optimiser state and random states, before they are used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor
from torch.optim import Optimizer

from training.checkpoints import VERSION, random_states
from training.motion import MOST_FRAMES
from training.options import LARGEST_INPUT, SMALLEST_INPUT, Refused

_MOST_VALUES = 200_000  # in the arguments: class names and a few dozen others


class _Arguments(BaseModel):
    """The entries of a checkpoint's ``args`` that are read; others are kept unchanged."""

    model_config = ConfigDict(strict=True, extra="allow")

    arch: str = Field(pattern=r"^[A-Za-z0-9_./-]{1,200}$")
    view: str = Field(max_length=200)
    split: int = Field(ge=1, le=3)
    seed: int = Field(ge=0)
    select: str = Field(pattern="^(last|val|test)$")
    input_size: int = Field(ge=SMALLEST_INPUT, le=LARGEST_INPUT)
    stream: str = Field("rgb", pattern="^(rgb|motion)$")
    flow_frames: int = Field(1, ge=1, le=MOST_FRAMES)
    remove_camera: bool = True
    classes: list[str] = Field(min_length=1)
    store_fingerprint: str = Field(max_length=200)


class _State(BaseModel):
    """The state needed to resume; its tensors are compared with those of a new training."""

    model_config = ConfigDict(strict=True, extra="allow")

    epoch: int = Field(ge=1, le=10**9)
    history: list[dict[str, float]]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    random_states: list[dict[str, Any]] = Field(min_length=1)


def arguments_of(checkpoint: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the training arguments of a mocrop checkpoint, {} for one of another program.

    `Refused`, with a message that begins with ``where``, for another version, for arguments that are missing, of a
    wrong type or out of range, and for values that JSON does not have.
    """
    if "mocrop_checkpoint" not in checkpoint:
        return {}
    version = checkpoint["mocrop_checkpoint"]
    if type(version) is not int or version != VERSION:
        raise Refused(f"{where}: a checkpoint of version {str(version)[:40]}; this program reads version {VERSION}")
    args = checkpoint.get("args")
    if not isinstance(args, dict):
        raise Refused(f"{where}: its args are {type(args).__name__}, not the arguments of a training")
    if not _is_json(args, [_MOST_VALUES]):
        raise Refused(f"{where}: its args contain more than numbers, text and lists of them")
    epoch = checkpoint.get("epoch")
    if type(epoch) is not int or not 0 < epoch < 10**9:
        raise Refused(f"{where}: its epoch is {str(epoch)[:40]}")
    _check(_Arguments, args, f"{where}: its args")
    return args


def _check(model: type[BaseModel], values: Mapping[str, Any], where: str) -> None:
    try:
        model.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part)[:60] for part in first["loc"])
        value = "" if first["type"] == "missing" else f" {str(first['input'])[:60]!r}"
        raise Refused(f"{where}: {key}{value}: {first['msg'].lower()}") from None


def _is_json(value: object, left: list[int], depth: int = 0) -> bool:
    """Return whether a value is valid JSON with at most ``left[0]`` parts: pickled lists may contain each other."""
    left[0] -= 1
    if left[0] < 0 or depth > 8:
        return False
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_json(inner, left, depth + 1) for key, inner in value.items())
    if isinstance(value, list):
        return all(_is_json(inner, left, depth + 1) for inner in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, bool | str) or (isinstance(value, int) and abs(value) < 1 << 63)


def check_state(found: Mapping[str, Any], optimizer: Optimizer, schedule: Mapping[str, Any], where: str) -> None:
    """Raise `Refused` unless a checkpoint's state fits this optimiser, this schedule and the random generators."""
    _check(_State, found, where)
    if len(found["history"]) != found["epoch"]:
        raise Refused(f"{where}: it has {found['epoch']} epochs and metrics of {len(found['history'])}")
    own = random_states()
    for states in found["random_states"]:
        states = {**states, "cuda": own["cuda"]} if _are_byte_tensors(states.get("cuda")) else states
        if not _alike(own, states):
            raise Refused(f"{where}: its random_states are not states of torch, numpy and Python")
    if not _alike(schedule, found["schedule"]):
        raise Refused(f"{where}: its schedule does not match the arguments")
    if not _fits(optimizer, found["optimizer"]):
        raise Refused(f"{where}: its optimizer's state does not match the arguments")


def _are_byte_tensors(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, Tensor) and one.dtype == torch.uint8 for one in value)


def _fits(optimizer: Optimizer, found: Mapping[str, Any]) -> bool:
    """Return whether a state has the groups and options of ``optimizer``, and tensors that fit its parameters."""
    own = optimizer.state_dict()
    if found.keys() != own.keys() or not _alike(own["param_groups"], found["param_groups"]):
        return False
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = found["state"]
    return isinstance(state, dict) and all(
        type(number) is int
        and 0 <= number < len(parameters)
        and isinstance(values, dict)
        and all(_is_state_of(parameters[number], value) for value in values.values())
        for number, values in state.items()
    )


def _is_state_of(parameter: Tensor, value: object) -> bool:
    if not isinstance(value, Tensor):
        return value is None or isinstance(value, int | float)
    plain = not value.is_meta and value.layout == torch.strided and value.is_floating_point()
    return plain and value.shape in (torch.Size(), parameter.shape)


def _alike(own: object, found: object) -> bool:
    """Return whether two values have the same structure: keys, lengths, types, and shapes and dtypes of tensors."""
    if isinstance(own, Tensor):
        if not isinstance(found, Tensor) or found.is_meta or found.layout != torch.strided:
            return False
        return (own.dtype, own.shape) == (found.dtype, found.shape)
    if isinstance(own, dict):
        return (
            isinstance(found, dict) and own.keys() == found.keys() and all(_alike(own[key], found[key]) for key in own)
        )
    if isinstance(own, list | tuple):
        return (
            isinstance(found, list | tuple)
            and len(own) == len(found)
            and all(_alike(mine, theirs) for mine, theirs in zip(own, found, strict=True))
        )
    if own is None or isinstance(own, bool):
        return found is None or isinstance(found, bool | float)
    if isinstance(own, int | float):
        return found is None or (isinstance(found, int | float) and math.isfinite(found))
    return type(own) is type(found)
