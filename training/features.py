"""Frozen features of clips: the input of a backbone's last layer, averaged over a clip's frames and cached on disk.

A file of features records its source: the view, its crops, the weights, the size and the frames. A file with another
source is never used.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import nn

from data_specs.fingerprints import fingerprint
from data_specs.records import CropRow
from data_specs.resources import usable_cores
from data_specs.stored import open_store
from training.backbones import Backbone
from training.checkpoints import replaced
from training.clips import Clips
from training.motion import FlowMaps, MotionInput
from training.options import Failed
from training.stream import Batch, ClipStream, batches_of_test, compute_alone, plan_of_test

REVISION = 1  # of the way features are computed
RGB = "rgb"
Features = npt.NDArray[np.float32]
Track = Callable[[Iterable[Batch], int], Iterable[Batch]]


@dataclass(frozen=True, slots=True)
class Source:
    """The source of features.

    ``view_fingerprint`` is the view's, ``crops`` the fingerprint of its cached frames, which depends on everything
    upstream down to the source files; ``clips`` that of the list of clips; ``weights`` the hash of the network's
    tensors; ``stream`` what the network sees.
    """

    arch: str
    weights: str
    view: str
    view_fingerprint: str
    crops: str
    clips: str
    input_size: int
    segments: int
    revision: int = REVISION
    stream: str = RGB

    @property
    def fields(self) -> dict[str, Any]:
        """What a file says of them; those of the RGB stream name no stream, as before there were others."""
        return {key: value for key, value in asdict(self).items() if (key, value) != ("stream", RGB)}

    def path(self, folder: Path) -> Path:
        """The file for the features of this source, below a folder."""
        arch = f"{self.arch.replace('/', '_')}{'' if self.stream == RGB else '-motion'}"
        name = f"{arch}-{self.view}-{self.input_size}px-{self.segments}frames"
        return folder / f"{name}-{fingerprint(self.fields)[:16]}.safetensors"


def source_of(
    clips: Clips, arch: str, weights: str, input_size: int, segments: int, motion: MotionInput | None = None
) -> Source:
    """The source of the features of these clips."""
    store = open_store(clips.location)
    records = store.records(CropRow, clips.view)
    return Source(
        arch=arch,
        weights=weights,
        view=clips.view,
        view_fingerprint=store.view(clips.view).fingerprint,
        crops=fingerprint([records[shard].output for shard in sorted(records)]),
        clips=clips.fingerprint,
        input_size=input_size,
        segments=segments,
        stream=str(motion or RGB),
    )


def weights_hash(model: nn.Module) -> str:
    """The SHA-256 of a network's tensors and their names, truncated to 32 digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]


def read_features(path: Path, source: Source, count: int) -> Features:
    """The features of ``count`` clips, (count, features); `Failed` unless the file has this source."""
    try:
        with safe_open(path, framework="numpy") as file:
            said = json.loads((file.metadata() or {}).get("source", "{}"))
            features: npt.NDArray[Any] = file.get_tensor("features")
    except (OSError, SafetensorError, ValueError) as error:
        raise Failed(f"features {str(path)!r} cannot be read ({error}); delete the file") from None
    wanted = source.fields
    if other := [key for key in wanted if not isinstance(said, dict) or said.get(key) != wanted[key]]:
        theirs = said.get(other[0]) if isinstance(said, dict) else None
        raise Failed(
            f"features {str(path)!r} have another {other[0].replace('_', ' ')} ({str(theirs)[:40]!r}, not "
            f"{wanted[other[0]]!r}); delete the file to compute them again"
        )
    if features.dtype != np.float32 or features.ndim != 2 or len(features) != count or not np.isfinite(features).all():
        raise Failed(f"features {str(path)!r} are damaged; delete the file to compute them again")
    return np.asarray(features)


def write_features(path: Path, features: Features, source: Source) -> None:
    """Write features with their source."""
    metadata = {"source": json.dumps(source.fields)}
    content = save({"features": features}, metadata)
    replaced(path, lambda part: part.write_bytes(content))


def compute_features(
    backbone: Backbone,
    clips: Clips,
    *,
    device: torch.device,
    segments: int,
    input_size: int,
    batch_size: int,
    threads: int | None,
    maps: FlowMaps | None = None,
    track: Track = lambda batches, _: batches,
) -> Features:
    """The mean features of each clip over its test segments, float32 (n, features), in the order of the list.

    With ``maps`` of the same clips, the network sees these in place of frames. ``backbone`` has no last layer
    (`training.backbones.without_head`) and is on the device. A frame that is used for several segments, as in short
    clips, is computed once. On a CPU each core processes its own batches with one thread: on a busy machine, threads
    that share a batch spend most of their time waiting for each other. `Failed` names a clip whose features are not
    finite.
    """
    backbone.model.eval()
    stream = ClipStream(clips, maps=maps, threads=threads, pin=device.type == "cuda")
    stream.plan = plan_of_test(clips, segments)
    stream.batches = batches_of_test(stream.plan.order, batch_size, 0, 1)
    workers = 1 if device.type == "cuda" else usable_cores()
    found, pending = [], deque[Future[Features]]()
    with ThreadPoolExecutor(workers, "features", compute_alone) as pool:
        for batch in track(stream, len(stream)):
            pending.append(pool.submit(_features, backbone, batch, stream.plan.slots, input_size, device))
            if len(pending) > workers:
                found.append(pending.popleft().result())
        found += [each.result() for each in pending]
    features = np.concatenate(found)
    finite = np.asarray(np.isfinite(features).all(axis=1))
    if not finite.all():
        raise Failed(
            f"the features of {int((~finite).sum())} of {len(finite)} clips are not finite "
            f"({clips.ids[finite.argmin()]!r} first): these weights give no result"
        )
    return features


@torch.inference_mode()
def _features(
    backbone: Backbone, batch: Batch, slots: npt.NDArray[np.int64], input_size: int, device: torch.device
) -> Features:
    """The features of a batch, (clips, features); ``slots`` has the frames of all clips."""
    mine = slots[batch.positions]
    pairs = np.stack([np.repeat(np.arange(len(mine)), mine.shape[1]), mine.ravel()], axis=1)
    _, first, back = np.unique(pairs, axis=0, return_index=True, return_inverse=True)
    frames = batch.frames.flatten(0, 1)[torch.from_numpy(first)].to(device)
    images = backbone.input(frames[:, None], None, input_size)[:, 0]
    found = backbone.model(images.contiguous(memory_format=torch.channels_last)).float().cpu()
    return np.asarray(found[torch.from_numpy(back.ravel())].unflatten(0, mine.shape).mean(dim=1).numpy())
