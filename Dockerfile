# The pipeline with its environment. It uses an NVIDIA GPU if the host has the NVIDIA container toolkit, else the CPU.
#
#   docker build -t cyclegan .                                   # --build-arg LOCK=requirements.lock: smaller, CPU only
#   docker run --rm --gpus all $VOLUMES cyclegan                 # dvc repro
#   docker run --rm $VOLUMES -p 127.0.0.1:5000:5000 cyclegan ui  # the MLflow UI, on this machine only
#
# with VOLUMES="-v cyclegan-data:/project/data -v cyclegan-mlruns:/project/mlruns
#               -v cyclegan-checkpoints:/project/checkpoints -v cyclegan-cache:/project/.dvc/cache
#               -v cyclegan-models:/project/models -v cyclegan-reports:/project/reports -v cyclegan-search:/project/.search"
# Your own parameters and images: -v "$PWD/params.yaml:/project/params.yaml" -v /my/images:/images:ro
FROM python:3.12-slim

ARG LOCK=requirements-gpu.lock
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 DO_NOT_TRACK=1 DVC_NO_ANALYTICS=1 MLFLOW_DISABLE_TELEMETRY=true \
    MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false

RUN useradd --create-home --uid 1000 cyclegan
WORKDIR /project

# Install before copying the code, so that a change of code does not reinstall TensorFlow.
COPY requirements.lock requirements-gpu.lock ./
RUN pip install --requirement "$LOCK"

COPY --chown=cyclegan . .
# The image has no git history. Runs get the commit as a tag only if the project is mounted with its .git.
RUN pip install --no-deps --no-build-isolation . \
    && dvc config --local core.no_scm true \
    && mkdir -p mlruns checkpoints .search models reports .dvc/cache \
    && chown -R cyclegan:cyclegan /project

USER cyclegan
VOLUME ["/project/data", "/project/mlruns", "/project/checkpoints", "/project/.search", "/project/models", \
    "/project/reports", "/project/.dvc/cache"]
ENTRYPOINT ["./docker-entrypoint.sh"]
CMD ["dvc", "repro"]
