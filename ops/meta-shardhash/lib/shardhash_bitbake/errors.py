"""What a call of the client raises: InvokeError for a refusal of the server, ConnectionError for everything else."""

from __future__ import annotations


class _InvokeError(Exception):
    """The server refused what was asked, where BitBake's library is not at hand."""


def _find_invoke_error() -> type[Exception]:
    """BitBake's class, so that its code catches what ours raises."""
    try:
        from bb.asyncrpc import InvokeError as Found
    except ImportError:
        return _InvokeError
    found: type[Exception] = Found
    return found


InvokeError: type[Exception] = _find_invoke_error()
"""A refusal: the server answered ``invoke-error``, and closes the connection."""


class ProtocolError(ConnectionError):
    """The server sent what it must not send."""


class SilentHeadersError(ConnectionError):
    """The server does not answer ``needs-headers: true``, as those before BitBake 2.8 do not."""


class BreakerOpenError(ConnectionError):
    """The server failed a short time ago, and is not asked again yet."""
