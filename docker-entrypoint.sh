#!/bin/sh
# `ui` starts the MLflow UI; everything else is run as it is.
set -eu
if [ "${1:-}" = ui ]; then
    # 0.0.0.0 is the container's own address: what the host sees is decided by docker run -p.
    exec env MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow server --host 0.0.0.0 --port 5000 --workers 1 \
        --allowed-hosts 'localhost:*,127.0.0.1:*' \
        --backend-store-uri "sqlite:////project/mlruns/mlflow.db" --default-artifact-root /project/mlruns/artifacts
fi
if [ -t 0 ]; then
    exec "$@"
fi
# `docker stop` signals process 1 alone, and the kernel keeps from process 1 what it does not handle, as DVC does not: hand
# the signal to DVC and its stages, a process group of their own, and wait until a training has saved its state.
setsid "$@" &
group=$!
trap 'kill -TERM "-$group" 2>/dev/null || true' TERM INT
code=0
wait "$group" || code=$?
while kill -0 "-$group" 2>/dev/null; do
    sleep 0.2
done
exit "$code"
