# The pipeline on a CPU: mocrop's commands, the Prefect server, Dask's scheduler and workers, the served deployment.
#
#     docker build --file docker/pipeline.Dockerfile --tag mocrop-pipeline:0.2.0 .
#     docker run --rm --volume "$PWD/data:/data" mocrop-pipeline:0.2.0 mocrop doctor
#
# All versions are pinned in constraints.txt. ffmpeg with libx264 comes from imageio-ffmpeg, so it is pinned, too, and no
# system package is needed. The image has no program for RAR archives: use mocrop fetch ucf101 DIR --zip.
# For another base image: --build-arg PYTHON_IMAGE=python:…@sha256:…

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
    /opt/mocrop/bin/pip install --disable-pip-version-check --constraint constraints.txt ".[pipeline,s3]" \
    && /opt/mocrop/bin/pip uninstall --yes pip

FROM ${PYTHON_IMAGE}
ARG VERSION=0.2.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="mocrop pipeline" \
      org.opencontainers.image.description="Motion-guided crops: from videos to a store of boxes and cached crops" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="docker.io/library/python:3.11.14-slim-bookworm"
RUN groupadd --gid 1000 mocrop \
    && useradd --uid 1000 --gid 1000 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin mocrop \
    && install --directory --owner 1000 --group 1000 /data
COPY --from=build /opt/mocrop /opt/mocrop
COPY docker/health.py /opt/mocrop/health.py
# Only /tmp and /data are written to, so any user id and a read-only root work.
ENV PATH=/opt/mocrop/bin:$PATH \
    HOME=/tmp \
    PREFECT_HOME=/tmp/prefect \
    PREFECT_SERVER_UI_STATIC_DIRECTORY=/tmp/prefect-page \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    PREFECT_PLUGINS_ENABLED=true \
    PREFECT_PLUGINS_ALLOW=mocrop \
    DO_NOT_TRACK=1 \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1
WORKDIR /data
USER 1000:1000
HEALTHCHECK --interval=15s --timeout=10s --start-period=90s --retries=4 \
    CMD ["python", "/opt/mocrop/health.py", "deployment"]
CMD ["mocrop", "serve"]
