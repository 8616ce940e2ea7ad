"""What a checkpoint says besides its weights, checked before anything is done with it: it may come from anybody."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor
from torch.optim import Optimizer

from training.checkpoints import VERSION, random_states
from training.options import LARGEST_INPUT, SMALLEST_INPUT, Refused

_MOST_VALUES = 200_000  # in the arguments: class names, and some dozens of others


class _Arguments(BaseModel):
    """What is read of a checkpoint's ``args``; the others are kept as they are."""

    model_config = ConfigDict(strict=True, extra="allow")

    arch: str = Field(pattern=r"^[A-Za-z0-9_./-]{1,200}$")
    view: str = Field(max_length=200)
    split: int = Field(ge=1, le=3)
    seed: int = Field(ge=0)
    select: str = Field(pattern="^(last|val|test)$")
    input_size: int = Field(ge=SMALLEST_INPUT, le=LARGEST_INPUT)
    classes: list[str] = Field(min_length=1)
    store_fingerprint: str = Field(max_length=200)


class _State(BaseModel):
    """What a training needs to go on; what tensors are in it is compared with a training's own."""

    model_config = ConfigDict(strict=True, extra="allow")

    epoch: int = Field(ge=1, le=10**9)
    history: list[dict[str, float]]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    random_states: list[dict[str, Any]] = Field(min_length=1)


def arguments_of(checkpoint: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The arguments that a checkpoint of ours was trained with, {} for one of another program.

    `Refused` in one line, which begins with ``where``, for a later version, arguments that are missing, of another
    type or out of range, or values that JSON does not have.
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
        raise Refused(f"{where}: its args hold more than numbers, text and lists of them")
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
    """Whether a value is one that JSON has, of at most ``left[0]`` parts: pickled lists may hold each other."""
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
    """`Refused` unless a checkpoint's state is one that this optimiser, schedule and generators can take."""
    _check(_State, found, where)
    if len(found["history"]) != found["epoch"]:
        raise Refused(f"{where}: it has {found['epoch']} epochs and figures of {len(found['history'])}")
    own = random_states()
    for states in found["random_states"]:
        states = {**states, "cuda": own["cuda"]} if _are_byte_tensors(states.get("cuda")) else states
        if not _alike(own, states):
            raise Refused(f"{where}: its random_states are not those of torch, numpy and Python")
    if not _alike(schedule, found["schedule"]):
        raise Refused(f"{where}: its schedule is not that of these arguments")
    if not _fits(optimizer, found["optimizer"]):
        raise Refused(f"{where}: its optimizer's state is not that of these arguments")


def _are_byte_tensors(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, Tensor) and one.dtype == torch.uint8 for one in value)


def _fits(optimizer: Optimizer, found: Mapping[str, Any]) -> bool:
    """Whether an optimiser's state has the groups and options of ``optimizer``, and tensors like its parameters."""
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
    """Whether two values have the same structure: keys, lengths, types, and the shapes and types of tensors."""
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
