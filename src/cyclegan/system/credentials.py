"""Addresses, and errors that may hold some, as they may be shown."""

from __future__ import annotations

import re

from cyclegan.system.errors import UserError, one_line

SECRET = "password|passwd|token|secret|signature|credential|key"

# Parameters that hold one address.
ADDRESSES = ("tracking.uri", "search.storage")


def without_credentials(text: str) -> str:
    """Drop `user:password@`, and the values of `password=…`, `token=…` and their like, from every URI in a text.

    Passwords may hold unescaped characters: everything up to a URI's last `@` is dropped.
    """
    text = re.sub(r"(?<=://)[^/\s]\S*@", "", text)
    return re.sub(rf"(?i)(?<=[?&;\s])([\w-]*(?:{SECRET}))=[^&;\s'\"]*", r"\1=***", text)


def shown_address(address: str) -> str:
    """A whole address as it may be shown, even one that cannot be parsed."""
    scheme, separator, rest = address.partition("://")
    if "@" in address and not rest.startswith("/"):
        start = scheme + separator if separator else "***@"
        address = start + address.rpartition("@")[2]
    return without_credentials(address)


def shown_parameter(key: str, value: object) -> str:
    """The value of a parameter as it may be shown."""
    return (shown_address if key in ADDRESSES else without_credentials)(str(value))


def refuse_unescaped(origin: str, address: str) -> None:
    """Check that a user name and password in an address can be told apart from its other parts.

    Libraries would take a part of the password for the host, and print it.

    Args:
        origin: the key or variable that holds the address.

    Raises:
        UserError: they cannot.
    """
    scheme, _, rest = address.partition("://")
    if rest.startswith("/"):
        return
    if scheme.lower() in ("http", "https"):
        before, after = re.match(r"([^/?#]*)(.*)", rest, re.DOTALL).groups()  # type: ignore[union-attr]
        unclear = "@" in after or bool(re.search(r"[@\[\]\s]", before.rpartition("@")[0]))
    else:
        # SQLAlchemy takes all up to the first @ for the password.
        unclear = rest.partition("?")[0].count("@") > 1
    if unclear:
        raise UserError(
            f"{origin} = {shown_address(address)}: the user name or password holds a special character; "
            "write / as %2F, # as %23, ? as %3F, @ as %40"
        )


def reason(error: BaseException) -> str:
    """An error in a few words, without credentials."""
    return without_credentials(one_line(error))[:300]
