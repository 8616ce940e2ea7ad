"""The scores that a test gave each clip, kept beside its result, for late fusion."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from data_specs.text import json_text
from training.checkpoints import replaced
from training.evaluation import EvalResult, scores_of
from training.options import Failed


def write_scores(path: Path, scores: EvalResult) -> None:
    """Write the logits and labels of the tested clips, with their ids and the names of the classes."""
    metadata = {"ids": json_text(scores.ids), "class_names": json_text(scores.class_names)}
    content = save({"logits": scores.logits, "labels": scores.labels}, metadata)
    replaced(path, lambda part: part.write_bytes(content))


def read_scores(path: Path) -> EvalResult:
    """Read scores that `write_scores` wrote; `Failed` for a file that is missing or holds anything else."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            logits, labels = file.get_tensor("logits"), file.get_tensor("labels")
        ids, names = (tuple(map(str, json.loads(metadata[key]))) for key in ("ids", "class_names"))
    except FileNotFoundError:
        raise Failed(
            f"scores {str(path)!r} are missing; python -m training.test writes them beside its result"
        ) from None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Failed(f"scores {str(path)!r} cannot be read ({error}); run python -m training.test again") from None
    fits = logits.dtype == np.float32 and labels.dtype == np.int64 and len(names) and len(ids)
    if not fits or logits.shape != (len(ids), len(names)) or labels.shape != (len(ids),):
        raise Failed(f"scores {str(path)!r} are damaged; run python -m training.test again")
    if not np.isfinite(logits).all() or labels.min() < 0 or labels.max() >= len(names):
        raise Failed(f"scores {str(path)!r} are damaged; run python -m training.test again")
    return scores_of(logits, labels, names, ids)
