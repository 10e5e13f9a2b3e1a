"""Connections to databases, MLflow's and that of a search."""

from __future__ import annotations

import sqlalchemy

# What the drivers of databases call the seconds after which a connection is given up.
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
    """Arguments with which a driver gives up on a server that accepts a connection and never answers.

    A limit that the user has put into the address stays; a driver without such an argument gets none.
    """
    limit = CONNECT_TIMEOUTS.get(url.get_driver_name())
    return {} if limit is None or limit in url.query else {limit: seconds}
