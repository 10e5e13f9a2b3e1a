"""Remove credentials from addresses, parameters and error messages."""

from __future__ import annotations

import re

from cyclegan.system.errors import UserError, one_line

SECRET = "password|passwd|token|secret|signature|credential|key"

# Parameters whose value is an address.
ADDRESSES = ("tracking.uri", "search.storage")


def without_credentials(text: str) -> str:
    """Remove `user:password@`, and the values of `password=…`, `token=…` and the like, from every URI in a text.

    A password may contain unescaped characters: everything up to the last `@` of a URI is removed.
    """
    text = re.sub(r"(?<=://)[^/\s]\S*@", "", text)
    return re.sub(rf"(?i)(?<=[?&;\s])([\w-]*(?:{SECRET}))=[^&;\s'\"]*", r"\1=***", text)


def shown_address(address: str) -> str:
    """An address without credentials, even if it cannot be parsed."""
    scheme, separator, rest = address.partition("://")
    if "@" in address and not rest.startswith("/"):
        start = scheme + separator if separator else "***@"
        address = start + address.rpartition("@")[2]
    return without_credentials(address)


def shown_parameter(key: str, value: object) -> str:
    """The value of a parameter without credentials."""
    return (shown_address if key in ADDRESSES else without_credentials)(str(value))


def refuse_unescaped(origin: str, address: str) -> None:
    """Check that the special characters of a user name and password in an address are escaped.

    Otherwise libraries parse a part of the password as the host, and print it.

    Args:
        origin: the key or variable that holds the address.

    Raises:
        UserError: a special character is not escaped.
    """
    scheme, _, rest = address.partition("://")
    if rest.startswith("/"):
        return
    if scheme.lower() in ("http", "https"):
        before, after = re.match(r"([^/?#]*)(.*)", rest, re.DOTALL).groups()  # type: ignore[union-attr]
        unclear = "@" in after or bool(re.search(r"[@\[\]\s]", before.rpartition("@")[0]))
    else:
        # SQLAlchemy parses everything up to the first @ as the password.
        unclear = rest.partition("?")[0].count("@") > 1
    if unclear:
        raise UserError(
            f"{origin} = {shown_address(address)}: the user name or password holds a special character; "
            "write / as %2F, # as %23, ? as %3F, @ as %40"
        )


def reason(error: BaseException) -> str:
    """An error message in one line of at most 300 characters, without credentials."""
    return without_credentials(one_line(error))[:300]
