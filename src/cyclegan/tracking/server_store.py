"""An MLflow store behind a tracking server."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import getproxies

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from cyclegan.system.credentials import reason, shown_address
from cyclegan.system.errors import UserError, causes

FIRST_ANSWER_SECONDS = 5


def open_server(uri: str, origin: str) -> MlflowClient:
    """Connect to a tracking server. The client's `tracking_uri` holds no credentials.

    Args:
        origin: the key or variable that holds the URI.

    Raises:
        UserError: no MLflow server answers at the URI.
    """
    parts = urlsplit(uri)
    if parts.username:
        # MLflow prints URIs in its errors. It reads credentials from these variables, too.
        os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username)
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password or "")
        uri = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    try:
        with short_timeouts():
            client.search_experiments(max_results=1)
    except MlflowException as error:
        remedy = access_remedy(error, uri) or (
            "start it, correct the address, leave it empty to use the project's own store, or set tracking.offline: "
            "true to train without it and deliver later"
        )
        raise UserError(f"{origin} = {uri}: the MLflow server is unavailable; {remedy} ({reason(error)})") from error
    return client


@contextmanager
def short_timeouts(seconds: int = FIRST_ANSWER_SECONDS) -> Iterator[None]:
    """Shorten the timeout of requests to a server to `seconds`, without retries, unless the user has set others."""
    with _defaults(MLFLOW_HTTP_REQUEST_TIMEOUT=str(seconds), MLFLOW_HTTP_REQUEST_MAX_RETRIES="0"):
        yield


@contextmanager
def one_retry() -> Iterator[None]:
    """Retry a request to a server once, unless the user has set another number.

    MLflow's seven retries take minutes, for example if the server's object storage is full.
    """
    with _defaults(MLFLOW_HTTP_REQUEST_MAX_RETRIES="1"):
        yield


@contextmanager
def _defaults(**limits: str) -> Iterator[None]:
    """Set environment variables that the user has not set."""
    ours = {name: value for name, value in limits.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def access_remedy(error: BaseException, uri: str) -> str | None:
    """The remedy for a failing proxy, a missing login, or a server's database; None for other errors."""
    text, parts = " ".join(map(str, causes(error))), urlsplit(uri)
    if "ProxyError" in text:
        proxy = shown_address(getproxies().get(parts.scheme, ""))
        return f"{parts.scheme}_proxy = {proxy} fails; correct it, or set NO_PROXY={parts.hostname}"
    if "tracking URI to the running MLflow server" in text:
        return "an MLflow server made this experiment and alone has its files; set MLFLOW_TRACKING_URI to the server"
    if re.search(r"\b401\b", text):
        return "it asks for a login (HTTP 401); set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    return None
