"""Connections to the databases of MLflow and of a search."""

from __future__ import annotations

import sqlalchemy

# Each database driver's name for its connection timeout in seconds.
CONNECT_TIMEOUTS = {
    "psycopg": "connect_timeout",
    "psycopg2": "connect_timeout",
    "pg8000": "timeout",
    "mysqldb": "connect_timeout",
    "pymysql": "connect_timeout",
    "mysqlconnector": "connection_timeout",
    "pyodbc": "timeout",
    "pymssql": "login_timeout",
}


def connect_arguments(url: sqlalchemy.URL, seconds: int) -> dict[str, int]:
    """Driver arguments that set a connection timeout, for a server that accepts a connection and never answers.

    A timeout in the address takes precedence. An unknown driver gets no argument.
    """
    limit = CONNECT_TIMEOUTS.get(url.get_driver_name())
    return {} if limit is None or limit in url.query else {limit: seconds}
