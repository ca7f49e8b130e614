"""The one place that takes passwords out of what is shown or written: addresses of stores, servers and mirrors.

An address is masked wherever it may be read by others: notices, errors, commands to copy, logs, reports.
"""

from __future__ import annotations

import re

MASK = "***"

_USER = re.compile(r"(?P<scheme>[A-Za-z][\w+.-]*://)(?:[^\s'\"<>/?#]*|[^\s'\"<>]*:[^\s'\"<>]*)@")
"""User and password, up to the last @; also where the password holds a slash that should have been %2F."""
_SECRET = "pass|pwd|token|secret|key|auth|cred|sig"
_QUERY = re.compile(rf"(?P<name>[?&;][\w.%-]*(?:{_SECRET})[\w.%-]*=)[^&;#\s'\"<>]*", re.IGNORECASE)


def masked(text: str) -> str:
    """A text, or an address alone, with `***` for users, passwords and tokens in addresses.

    `postgresql://me:pw@host/db?sslpassword=x` -> `postgresql://***@host/db?sslpassword=***`
    """
    return _QUERY.sub(rf"\g<name>{MASK}", _USER.sub(rf"\g<scheme>{MASK}@", text))
