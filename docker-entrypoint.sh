#!/bin/sh
# `ui` starts the MLflow UI. Any other command runs unchanged, and gets the signals of `docker stop`.
set -eu
if [ "${1:-}" = ui ]; then
    # 0.0.0.0 is the container's own address. `docker run -p` decides what the host can reach.
    exec env MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow server --host 0.0.0.0 --port 5000 --workers 1 \
        --allowed-hosts 'localhost:*,127.0.0.1:*' \
        --backend-store-uri "sqlite:////project/mlruns/mlflow.db" --default-artifact-root /project/mlruns/artifacts
fi
exec python3 "$(dirname "$0")/tools/container.py" "$@"
