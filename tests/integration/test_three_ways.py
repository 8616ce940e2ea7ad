"""The 15 real clips, each way that a run can be started: the command, the deployment, a cluster started by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr

from pipelines.execution.deployment_alias import DEPLOYMENT
from tests.integration.test_determinism import cluster
from tests.support.saboteurs import contents
from tests.support.soak import record
from tests.system.test_flow_server import Served, served  # noqa: F401 (a fixture)

MOCROP = [sys.executable, "-c", "from pipelines.cli.app import main; main()"]
CLIPS, VIEWS = 15, ("full", "mocrop")


@pytest.mark.soak
def test_the_command_the_deployment_and_a_cluster_started_by_hand_make_the_same_store(
    data: Path,
    served: Served,  # noqa: F811
    tmp_path: Path,
) -> None:
    asked = {"source": data / "UCF-101", "splits": data / "ucfTrainTestlist"}
    flags = [word for name, value in asked.items() for word in (f"--{name}", str(value))]
    with cluster(tmp_path, 2) as (address, workers):
        for name, more in (("here", []), ("by-hand", ["--dask-address", address])):
            words = [*MOCROP, "preprocess", *flags, "--store", f"{name}.zarr", *more]
            done = subprocess.run(words, cwd=tmp_path, env=served.environment, text=True, capture_output=True)
            assert done.returncode == 0, done.stderr
        assert len(workers) == 2
    parameters = {**asked, "store": tmp_path / "deployed.zarr"}
    words = [word for name, value in parameters.items() for word in ("-p", f"{name}={value}")]
    found = served.prefect("deployment", "run", DEPLOYMENT, "--watch", *words, folder=tmp_path)
    assert found.returncode == 0, found.stdout + served.output.read_text()

    stores = {name: contents(tmp_path / f"{name}.zarr") for name in ("here", "by-hand", "deployed")}
    assert stores["here"] == stores["by-hand"] == stores["deployed"]
    is_as_the_contract_says(tmp_path / "here.zarr")
    words = [*MOCROP, "boxes", "here.zarr", "--view", "mocrop", "--json"]
    printed = json.loads(subprocess.run(words, cwd=tmp_path, capture_output=True, env=os.environ).stdout)
    assert len(printed) == CLIPS
    record(
        "one store by the command, the deployment and a cluster by hand", files=len(stores["here"]), clips=CLIPS,
        bytes=sum(map(len, stores["here"].values())),
    )  # fmt: skip


def is_as_the_contract_says(store: Path) -> None:
    """Read every array by zarr and by xarray, and compare names, dimensions, types and shapes."""
    group = zarr.open_group(store, mode="r")
    assert group.attrs["mocrop_format"] == 2
    assert {"dataset", "recipe", "fingerprint", "class_names", "software"} <= set(group.attrs)
    arrays = {
        "id": (("clip",), None, (CLIPS,)),
        "label": (("clip",), np.int16, (CLIPS,)),
        "split": (("clip", "list"), np.uint8, (CLIPS, 3)),
        "state": (("clip",), np.uint8, (CLIPS,)),
        "reason": (("clip",), None, (CLIPS,)),
        "num_frames": (("clip",), np.int32, (CLIPS,)),
        "frame_size": (("clip", "hw"), np.int32, (CLIPS, 2)),
    }
    for view in VIEWS:
        arrays |= {
            f"views/{view}/box": (("clip", "x0y0x1y1"), np.int32, (CLIPS, 4)),
            f"views/{view}/score": (("clip",), np.float32, (CLIPS,)),
            f"views/{view}/source": (("clip",), np.uint8, (CLIPS,)),
            f"views/{view}/frames": (("clip", "frame", "y", "x", "channel"), np.uint8, (CLIPS, 16, 256, 256, 3)),
            f"views/{view}/frame_index": (("clip", "frame"), np.int32, (CLIPS, 16)),
        }
        assert {"params", "fingerprint"} <= set(group[f"views/{view}"].attrs)
    arrays["views/mocrop/density"] = (("clip", "row", "col"), np.float32, (CLIPS, 6, 8))
    for name, (dimensions, dtype, shape) in arrays.items():
        array = group[name]
        assert isinstance(array, zarr.Array)
        folder, _, last = name.rpartition("/")
        read = xarray.open_zarr(store, group=folder or None, consolidated=False)[last]
        assert array.shape == read.shape == shape, name
        assert array.metadata.dimension_names == read.dims == dimensions, name
        assert dtype is None or array.dtype == dtype, name
        np.testing.assert_array_equal(np.asarray(array[:]), read.load().to_numpy(), err_msg=name)
    assert list(group["id"][:]) == sorted(group["id"][:])
    assert (np.asarray(group["state"][:]) == 1).all()
