# syntax=docker/dockerfile:1
# The pipeline with its environment. It uses an NVIDIA GPU if the host has the NVIDIA container toolkit, else the CPU.
#
#   docker build -t cyclegan --build-arg GIT_COMMIT="$(git rev-parse HEAD)" .
#   docker run --rm --gpus all $VOLUMES cyclegan                 # dvc repro
#   docker run --rm $VOLUMES -p 127.0.0.1:5000:5000 cyclegan ui  # the MLflow UI, on this machine only
#   docker run --rm $VOLUMES -p 127.0.0.1:8000:8000 cyclegan serve models:/fluent-emoji-AtoB@champion
#
# with VOLUMES="-v cyclegan-data:/project/data -v cyclegan-mlruns:/project/mlruns
#               -v cyclegan-checkpoints:/project/checkpoints -v cyclegan-cache:/project/.dvc/cache
#               -v cyclegan-models:/project/models -v cyclegan-reports:/project/reports -v cyclegan-search:/project/.search"
# Your own parameters and images: -v "$PWD/params.yaml:/project/params.yaml" -v /my/images:/images:ro
#
# --build-arg LOCK=requirements-runtime.lock: smaller, CPU only. --target test: with the tests and their tools.

# The digest was read in public build files, not from the registry. `docker buildx imagetools inspect python:3.12-slim`
# prints the current one.
ARG BASE=python:3.12-slim@sha256:57cd7c3a7a273101a6485ba99423ee568157882804b1124b4dd04266317710de
FROM ${BASE} AS runtime

ARG LOCK=requirements-runtime-gpu.lock
# The home and the user's name serve any user id: OpenShift chooses one that is in no table of users.
ENV PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore HOME=/home/cyclegan USER=cyclegan \
    DO_NOT_TRACK=1 DVC_NO_ANALYTICS=1 MLFLOW_DISABLE_TELEMETRY=true MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false \
    DVC_SITE_CACHE_DIR=/tmp/dvc MPLCONFIGDIR=/tmp/matplotlib

RUN useradd --uid 1000 --gid 0 --create-home cyclegan && chmod g=u /home/cyclegan
WORKDIR /project

# Install before copying the code, so that a change of code does not reinstall TensorFlow. TensorFlow's headers only
# serve to compile operations for it, and the packages' tests to develop them.
COPY requirements*.lock ./
RUN --mount=type=cache,target=/home/cyclegan/.cache/pip,uid=0 \
    pip install --require-hashes --requirement "$LOCK" \
    && packages="$(python3 -c 'import importlib.util as u; print(u.find_spec("tensorflow").submodule_search_locations[0])')/.." \
    && rm -rf "$packages/tensorflow/include" \
    && for name in pandas scipy sklearn skimage numpy pyarrow; do \
        find "$packages/$name" -depth -type d -name tests -exec rm -rf {} +; done

COPY pyproject.toml README.md LICENSE .dvcignore dvc.yaml params.yaml docker-entrypoint.sh ./
COPY presets presets
COPY tools/container.py tools/container.py
COPY .dvc .dvc
COPY data data
COPY src src
# Volumes hide what the image has at their paths. The entry point copies newer example data from here.
# dvc.lock describes the files of the DVC cache, so it lies in the same volume.
# Only these folders are written to. Group 0 owns them, because any user id of OpenShift is in it.
RUN pip install --no-deps --no-build-isolation --no-cache-dir --editable . \
    && dvc config --local core.no_scm true \
    && cp -R data /opt/example-data \
    && ln -s .dvc/cache/dvc.lock dvc.lock \
    && mkdir -p mlruns checkpoints .search models reports .dvc/cache .dvc/tmp \
    && chown -R 1000:0 data mlruns checkpoints .search models reports .dvc \
    && chmod -R g=u data mlruns checkpoints .search models reports .dvc

ARG GIT_COMMIT=
ENV CYCLEGAN_GIT_COMMIT=${GIT_COMMIT}
LABEL org.opencontainers.image.title="cyclegan" \
    org.opencontainers.image.description="Unpaired image-to-image translation: DVC pipeline, MLflow runs and registry" \
    org.opencontainers.image.licenses="MIT" \
    org.opencontainers.image.revision="${GIT_COMMIT}"

USER 1000:0
VOLUME ["/project/data", "/project/mlruns", "/project/checkpoints", "/project/.search", "/project/models", \
    "/project/reports", "/project/.dvc/cache"]
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s CMD ["./docker-entrypoint.sh", "healthcheck"]
ENTRYPOINT ["./docker-entrypoint.sh"]
CMD ["dvc", "repro"]

FROM runtime AS test
USER 0
ARG TEST_LOCK=requirements.lock
RUN --mount=type=cache,target=/home/cyclegan/.cache/pip,uid=0 pip install --require-hashes --requirement "$TEST_LOCK"
COPY . .
CMD ["pytest"]

# The last stage is what `docker build` makes without --target.
FROM runtime
