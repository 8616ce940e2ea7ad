"""Compare views with linear heads on frozen features: ``python -m training.probe --store STORE``, minutes on a CPU.

Only the head is trained, so that a result depends only on the view, the weights and the clips. Every view is compared
with ``full`` and with the centre view of its area on the same clips, with 95 % intervals of a bootstrap over groups
and the p-value of McNemar's exact test. ``--stream rgb motion`` probes each view on cached frames and on flow maps, and
with the mean of the probabilities of both heads. Baselines that use no pixels show how much frame sizes and lengths
reveal.
"""

from __future__ import annotations

import argparse
import faulthandler
import platform
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from threadpoolctl import threadpool_limits

from data_specs.fingerprints import fingerprint
from data_specs.resources import usable_cores
from data_specs.stored import Store, open_store, shown
from data_specs.text import counted, json_text
from training import probe_table, tables
from training.backbones import Backbone
from training.checkpoints import replaced
from training.clips import Clips, read_all_clips, read_clips
from training.features import Features, compute_features, read_features, source_of, weights_hash, write_features
from training.linear_head import Floats, Ints, check_classes, check_installed, predict
from training.motion import FlowMaps, add_stream_flags, check_stream, clips_without_vectors
from training.options import (
    OneLineParser,
    Refused,
    check_output,
    checked_store,
    exit_status,
    expanded_path,
    input_size,
    whole,
)
from training.probe_networks import Network, networks_of
from training.probe_protocol import SHUFFLES, Protocol, protocol_of_folds, protocol_of_split
from training.probe_table import FUSED, MOTION, RGB, Key

EXAMPLES = """examples:
  the store's split 1      python -m training.probe --store ucf101.zarr
  folds by group           python -m training.probe --store fights.zarr --folds 10
  one person out           python -m training.probe --store weizmann.zarr --folds 9 --group-by '/([a-z]+)_'
  with the motion stream   python -m training.probe --store weizmann.zarr --folds 9 --group-by '/([a-z]+)_' \\
                             --stream rgb motion
  a trained backbone       python -m training.probe --store ucf101.zarr --weights runs/train/model.pt --format markdown
"""
NO_PIXEL = {
    "frame size, no pixel": ["height", "width", "area", "shape"],
    "frame count, no pixel": ["frames", "log frames"],
    "frame size and count, no pixel": ["height", "width", "area", "shape", "frames", "log frames"],
}
"""The baselines that use no pixels, and their inputs."""
PACKAGES = ("mocrop", "torchvision", "timm", "numpy", "scikit-learn")


def parser() -> argparse.ArgumentParser:
    """Return the command-line parser."""
    p = OneLineParser(prog="python -m training.probe", description=__doc__.splitlines()[0], epilog=EXAMPLES)
    p.add_argument(
        "--store", type=expanded_path, required=True, help="store made by mocrop preprocess: a folder or s3://…"
    )
    p.add_argument("--view", nargs="+", help="views to compare; default: all views of the store")
    p.add_argument(
        "--input-size",
        type=input_size,
        nargs="+",
        help="side lengths of the input, px; default: that of the cached frames",
    )
    p.add_argument(
        "--test-segments", type=whole(1), default=8, help="centre frames per clip whose features are averaged"
    )
    p.add_argument(
        "--arch",
        help="backbone: a torchvision name from the reference, a timm name, or efficientnet_lite0 (default), whose "
        "ImageNet weights come from an installed package",
    )
    p.add_argument(
        "--weights",
        "--model-path",
        type=expanded_path,
        help="checkpoint of mocrop, timm, torchvision or the reference; default: ImageNet weights of --arch",
    )
    p.add_argument(
        "--split",
        type=int,
        choices=(1, 2, 3),
        help="use the train and test lists of this split; default without --folds: 1",
    )
    p.add_argument(
        "--folds", type=whole(2), help="use this many folds of all clips, disjoint by group, instead of a split"
    )
    p.add_argument("--repeats", type=whole(1), help=f"shuffles of the folds; default: {SHUFFLES}")
    p.add_argument(
        "--group-by",
        metavar="REGEX",
        help="regular expression; the match of its parentheses in a clip's id is the clip's group; default: the "
        "store's groups, else UCF-101's",
    )
    add_stream_flags(
        p,
        nargs="+",
        default=["rgb"],
        help="cached frames, flow maps from the store's motion vectors, or both and their fusion, the mean of the "
        "probabilities of both heads",
    )
    p.add_argument("--motion-arch", help="what describes flow maps: flow_histogram (default), or a backbone")
    p.add_argument(
        "--motion-weights",
        type=expanded_path,
        help="checkpoint for --motion-arch; default: ImageNet weights, which flow_histogram does not need",
    )
    p.add_argument("--groups", type=expanded_path, metavar="FILE", help="CSV with the columns path and group")
    p.add_argument(
        "--seed",
        type=whole(0),
        default=0,
        help="random seed of the shuffles, of the bootstrap and of the folds that select C",
    )
    p.add_argument("-b", "--batch-size", type=whole(1), default=4, help="clips per step of the backbone")
    p.add_argument(
        "-j", "--workers", type=whole(0), help="threads that read and decode ahead; default: one per core, at most 4"
    )
    p.add_argument("--cpu", action="store_true", help="use the CPU even if there is a GPU")
    p.add_argument("--output-dir", type=expanded_path, default="probe", help="folder for features and tables")
    p.add_argument("--format", choices=tuple(tables.FORMATS), default="text", help="format of the printed table")
    return p


def probe(args: argparse.Namespace) -> dict[str, Any]:
    """Run the probe with these arguments, print and write the table, and return the result."""
    began = time.perf_counter()
    check_installed()
    check_output(args.output_dir)
    torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))  # torch ignores the CPU quota of a container
    store = open_store(args.store)
    views = list(dict.fromkeys(args.view or store.views))
    clips = {view: read_all_clips(args.store, view) for view in views}
    first = clips[views[0]]
    protocol = protocol_of(args, first)
    check_classes(first.labels, first.class_names)
    check_stream(args)
    networks = networks_of(args, store)
    still = clips_without_vectors(first) if any(network.motion for network in networks) else 0
    features: dict[Key, Features] = {}
    hashes: dict[str, dict[int, str]] = {network.stream: {} for network in networks}
    for size, network in product(dict.fromkeys(args.input_size or [first.size]), networks):
        backbone = network.built(size, device_of(args))
        digest = hashes[network.stream][size] = weights_hash(backbone.model)
        for view in views:
            with checked_store():
                features[view, size, network.stream] = features_of(args, clips[view], network, size, backbone, digest)
    for name, about in no_pixel_features(store, first).items():
        features[name, None, RGB] = about
    predicted, strengths = predictions(features, first.labels, protocol, args.seed)
    params = {view: dict(store.view(view).params) for view in views}
    rows = probe_table.rows_of(predicted, first.labels, protocol, params, args.seed)
    result = {
        "mocrop_probe": 1,
        "name": name_of(args, networks, store, hashes, protocol),
        "arch": " + ".join(network.arch for network in networks),
        "streams": {
            network.stream: {
                "sees": str(network.motion or RGB),
                "clips_without_vectors": still if network.motion else None,
                "arch": network.arch,
                "weights": {"path": network.path and shown(network.path), "tensors_sha256": hashes[network.stream]},
            }
            for network in networks
        },
        "dataset": store.attrs.get("dataset"),
        "store": shown(args.store),
        "store_fingerprint": store.fingerprint,
        "segments": args.test_segments,
        "protocol": protocol.fields
        | {"seed": args.seed, "clips_of_unlearned_classes": protocol.unlearned(first.labels)},
        "largest_class": round(probe_table.majority_share(first.labels[protocol.tested]), 4),
        "views": {view: {"params": params[view], "fingerprint": store.view(view).fingerprint} for view in views},
        "rows": [
            asdict(row) | {"strengths": strengths[key], "features": features[key].shape[1] if key in features else None}
            for row, key in zip(rows, predicted, strict=True)
        ],
        "clips": list(first.ids),
        "labels": first.labels.tolist(),
        "predicted": [
            {"view": view, "input_size": size, "stream": stream, "labels": p.tolist()}
            for (view, size, stream), p in predicted.items()
        ],
        "class_names": list(first.class_names),
        "seconds": round(time.perf_counter() - began, 1),
        "software": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            **{name: version(name) for name in PACKAGES},
        },
    }
    show(args, result, rows, protocol)
    return result


def protocol_of(args: argparse.Namespace, clips: Clips) -> Protocol:
    """The training and test clips; `Refused` for contradictory flags."""
    if args.folds is not None:
        if args.split is not None:
            raise Refused(f"--folds {args.folds}: give either --folds or --split")
        return protocol_of_folds(clips, args.folds, args.repeats, args.group_by, args.groups, args.seed)
    if args.repeats is not None:
        raise Refused(f"--repeats {args.repeats}: a split is not shuffled; use --repeats with --folds")
    split = args.split or 1
    train, test = (read_clips(args.store, clips.view, split, part).rows for part in ("train", "test"))
    return protocol_of_split(clips, split, train, test, args.group_by, args.groups)


def device_of(args: argparse.Namespace) -> torch.device:
    """The GPU, unless there is none or --cpu is given; else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() and not args.cpu else "cpu")


def features_of(
    args: argparse.Namespace, clips: Clips, network: Network, size: int, backbone: Backbone, weights: str
) -> Features:
    """The features of a view at a size: from the cache, else computed and cached."""
    source = source_of(clips, network.arch, weights, size, args.test_segments, network.motion)
    path = source.path(Path(args.output_dir) / "features")
    if path.exists():
        return read_features(path, source, len(clips))
    maps = None if network.motion is None else FlowMaps(clips, network.motion, size, keep=0)  # each is read once
    features = compute_features(
        backbone,
        clips,
        device=device_of(args),
        segments=args.test_segments,
        input_size=size,
        batch_size=args.batch_size,
        threads=args.workers,
        maps=maps,
        track=lambda batches, total: tracked(batches, f"{network.stream} features of {clips.view}, {size} px", total),
    )
    write_features(path, features, source)
    return features


def no_pixel_features(store: Store, clips: Clips) -> dict[str, Features]:
    """The inputs of the baselines, float32 (clips, columns) by name: frame size and number of frames of the video."""
    height, width = store.table("frame_size")[clips.rows].T.astype(np.float64)
    frames = store.table("num_frames")[clips.rows].astype(np.float64)
    columns = {
        "height": height,
        "width": width,
        "area": height * width,
        "shape": width / height,
        "frames": frames,
        "log frames": np.log(frames),
    }
    return {
        name: np.stack([columns[one] for one in about], axis=1).astype(np.float32) for name, about in NO_PIXEL.items()
    }


def predictions(
    features: dict[Key, Features], labels: Ints, protocol: Protocol, seed: int
) -> tuple[dict[Key, Ints], dict[Key, list[float]]]:
    """The predicted class of each clip, int64 (shuffles, clips), -1 if it is not tested, and each fold's C.

    If a view has features of both streams, the class with the highest mean probability of both heads is the fused one;
    of equal ones the first.
    """
    predicted: dict[Key, Ints] = {}
    strengths: dict[Key, list[float]] = {}
    chances: dict[Key, Floats] = {}
    both = {key for key in features if (*key[:2], RGB) in features and (*key[:2], MOTION) in features}
    work = [(key, shuffle) for key in features for shuffle in range(len(protocol.shuffles))]
    with threadpool_limits(1):  # the matrices are small: threads would mostly wait for each other
        for key, shuffle in tracked(work, "linear heads", len(work)):
            found = predicted.setdefault(key, np.full((len(protocol.shuffles), len(labels)), -1, np.int64))
            values: Floats = features[key].astype(np.float64)
            for sides in protocol.shuffles[shuffle]:
                head = predict(values, labels, protocol.groups, sides, seed)
                found[shuffle, sides[1]] = head.predicted
                strengths.setdefault(key, []).append(head.strength)
                if key in both:
                    total = chances.setdefault((*key[:2], FUSED), np.zeros((*found.shape, head.chances.shape[1])))
                    total[shuffle, sides[1]] += head.chances
    for key, total in chances.items():
        tested = predicted[(*key[:2], RGB)] >= 0
        predicted[key], strengths[key] = np.where(tested, total.argmax(axis=2), -1), []
    streams, sizes = (RGB, MOTION, FUSED), list(dict.fromkeys(size for _, size, _ in predicted))
    order = sorted(predicted, key=lambda key: (sizes.index(key[1]), streams.index(key[2])))
    return {key: predicted[key] for key in order}, strengths


def tracked(items: Iterable[Any], what: str, total: int) -> Iterable[Any]:
    """The items, with a progress bar if stderr is a terminal."""
    if not sys.stderr.isatty():
        return items
    from rich.console import Console

    return track(items, what, total=total, transient=True, console=Console(stderr=True))


def name_of(
    args: argparse.Namespace,
    networks: Sequence[Network],
    store: Store,
    hashes: dict[str, dict[int, str]],
    protocol: Protocol,
) -> str:
    """The name of a result's files, which depends on arguments, store and weights."""
    kind = f"split{protocol.split}" if protocol.split else f"{len(protocol.shuffles[0])}folds"
    groups = protocol.groups.tolist()
    about = [
        store.fingerprint,
        [(str(network.motion or RGB), sorted(hashes[network.stream].items())) for network in networks],
        protocol.fields,
        groups,
        args.seed,
        args.test_segments,
        args.view,
    ]
    archs = "-".join(network.arch.replace("/", "_") for network in networks)
    return f"probe-{archs}-{kind}-{fingerprint(about)[:8]}"


def show(args: argparse.Namespace, result: dict[str, Any], rows: Sequence[probe_table.Row], protocol: Protocol) -> None:
    """Print the table, and write table and result into ``--output-dir``."""
    table = probe_table.as_table(list(rows))
    texts = {"json": json_text(result), "md": tables.as_markdown(table), "csv": tables.as_csv(table)}
    for suffix, text in texts.items():
        replaced(Path(args.output_dir) / f"{result['name']}.{suffix}", partial(write_line, text=text))
    print(tables.FORMATS[args.format](table))
    if args.format in ("text", "markdown"):
        about = f"{result['arch']}, {args.test_segments} frames per clip; {protocol}"
        print(f"\n{about}; the largest class has {result['largest_class']:.1f} %")
        if wrong := result["protocol"]["clips_of_unlearned_classes"]:
            print(f"tested without a training clip of their class, and so wrong: {counted(wrong, 'clip')}")


def write_line(path: Path, text: str) -> None:
    """Write text with a final newline."""
    path.write_text(f"{text}\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    return exit_status(lambda: probe(parser().parse_args(argv)))


if __name__ == "__main__":
    faulthandler.enable()  # shows where, if a mapped shard is truncated
    sys.exit(main())
