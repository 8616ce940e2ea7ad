# Training and testing on NVIDIA GPUs: torch's wheels include CUDA; the host provides the driver.
#
#     docker build --file docker/training.Dockerfile --tag mocrop-training:0.2.0 .
#     docker run --rm --gpus all --volume "$PWD/data:/data" mocrop-training:0.2.0 \
#         python -m training.train --store /data/ucf101.zarr --output-dir /data/results
#
# All versions are pinned in constraints.txt; about 6 GB installed. Without a GPU it runs on the CPU, marked unhealthy.

# The digest is of the index of all platforms, as Docker's official images list it (docker-library/repo-info).
ARG PYTHON_IMAGE=python:3.11.16-slim-bookworm@sha256:0bee7276f83efd4a1ee05bbbf4281d95ed28e079220a9457f25a93e3f1e3c31b

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
RUN python -m venv /opt/mocrop
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY mocrop mocrop
COPY mocrop_core mocrop_core
COPY data_specs data_specs
COPY pipelines pipelines
COPY training training
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/mocrop/bin/pip install --disable-pip-version-check --constraint constraints.txt ".[train,s3]" \
    && /opt/mocrop/bin/pip uninstall --yes pip

FROM ${PYTHON_IMAGE}
ARG VERSION=0.2.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="mocrop training" \
      org.opencontainers.image.description="Training and testing of backbones on a store of motion-guided crops" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="docker.io/library/python:3.11.14-slim-bookworm"
RUN groupadd --gid 1000 mocrop \
    && useradd --uid 1000 --gid 1000 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin mocrop \
    && install --directory --owner 1000 --group 1000 /data
COPY --from=build /opt/mocrop /opt/mocrop
ENV PATH=/opt/mocrop/bin:$PATH \
    HOME=/tmp \
    TORCH_HOME=/data/weights \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    DO_NOT_TRACK=1 \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1
WORKDIR /data
USER 1000:1000
HEALTHCHECK --interval=60s --timeout=20s --start-period=30s --retries=3 CMD ["nvidia-smi", "--list-gpus"]
CMD ["python", "-m", "training.train", "--help"]
