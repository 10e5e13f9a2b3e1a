#!/bin/sh
# `ui` starts the MLflow server, and `serve MODEL` a server of translations. `healthcheck` asks the running one.
# Any other command runs unchanged. All get the signals of `docker stop`.
set -eu
tools="$(dirname "$0")/tools"
address="${TMPDIR:-/tmp}/cyclegan-health"
example_data="${EXAMPLE_DATA:-/opt/example-data}"

if [ "${1:-}" = healthcheck ]; then
    # A training has no address. Its container is healthy while it runs.
    [ -f "$address" ] || exit 0
    exec python3 -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=8)' "$(cat "$address")"
fi

# A volume keeps the example data of the image that created it.
if [ -d "$example_data" ] && [ -w data ]; then
    for path in "$example_data"/*; do
        diff -rq "$path" "data/${path##*/}" > /dev/null 2>&1 || cp -R "$path" data/
    done
fi
# The image links dvc.lock into the volume of the DVC cache. DVC wants a file there.
if [ -L dvc.lock ] && [ ! -e dvc.lock ]; then
    printf "schema: '2.0'\nstages: {}\n" > dvc.lock
fi

# 0.0.0.0 is the container's own address. `docker run -p` decides what the host can reach.
case "${1:-}" in
ui)
    shift
    echo http://127.0.0.1:5000/health > "$address"
    # MLflow reads its options from variables, too: a team's server sets them.
    export MLFLOW_SERVER_ENABLE_JOB_EXECUTION="${MLFLOW_SERVER_ENABLE_JOB_EXECUTION:-false}"
    export MLFLOW_SERVER_ALLOWED_HOSTS="${MLFLOW_SERVER_ALLOWED_HOSTS:-localhost:*,127.0.0.1:*}"
    export MLFLOW_BACKEND_STORE_URI="${MLFLOW_BACKEND_STORE_URI:-sqlite:////project/mlruns/mlflow.db}"
    export MLFLOW_WORKERS="${MLFLOW_WORKERS:-1}"
    # With a destination, clients send files through the server.
    [ -n "${MLFLOW_ARTIFACTS_DESTINATION:-}" ] || set -- --default-artifact-root /project/mlruns/artifacts "$@"
    set -- mlflow server --host 0.0.0.0 --port 5000 "$@"
    ;;
serve)
    shift
    echo http://127.0.0.1:8000/health > "$address"
    set -- cyclegan serve --host 0.0.0.0 --port 8000 --access-log \
        --allowed-hosts "${SERVE_ALLOWED_HOSTS:-localhost,127.0.0.1}" "$@"
    ;;
esac
exec python3 "$tools/container.py" "$@"
