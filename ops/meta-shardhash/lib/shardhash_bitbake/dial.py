"""Connecting sockets: addresses of a host one after the other, long unix paths, proxies, TLS."""

from __future__ import annotations

import base64
import encodings.idna  # noqa: F401  # getaddrinfo imports it, which would take each forked task 3 ms
import os
import socket
import ssl
import time
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from shardhash_bitbake.address import Address, host_and_port

_KEEP_ALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))
_PATH_LIMIT = 100
"""Bytes of a unix path that every kernel takes."""
_HEAD_LIMIT = 64 * 1024

_contexts: dict[tuple[str | None, str | None], ssl.SSLContext] = {}


def dial(address: Address, timeout: float) -> socket.socket:
    """A connected socket, for wss with TLS. Raises OSError."""
    end = time.monotonic() + timeout
    if address.kind == "unix":
        return _dial_unix(address.path, timeout)
    proxy = find_proxy(address)
    host, port = (address.host, address.port) if proxy is None else (proxy[0], proxy[1])
    sock = _dial_tcp(host, port, end)
    try:
        if proxy is not None:
            _ask_proxy(sock, address, proxy[2], end)
        if address.kind == "wss":
            sock.settimeout(_left(end))
            return tls_context().wrap_socket(sock, server_hostname=address.host)
    except BaseException:
        sock.close()
        raise
    return sock


def _left(end: float) -> float:
    return max(end - time.monotonic(), 0.001)


def _dial_tcp(host: str, port: int, end: float) -> socket.socket:
    """Try each address of a host in turn, each with its share of the time that is left."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    failure: OSError = ConnectionError(f"{host} has no address")
    for number, (family, kind, protocol, _, place) in enumerate(found):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(_left(end) / (len(found) - number))
            sock.connect(place)
        except OSError as error:
            failure = error
            sock.close()
            continue
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEP_ALIVE:
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        return sock
    raise failure


def _dial_unix(path: str, timeout: float) -> socket.socket:
    """Connect to a unix socket. A path that is too long for the kernel is reached through a descriptor."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        if len(os.fsencode(path)) <= _PATH_LIMIT:
            sock.connect(path)
            return sock
        node = os.open(path, os.O_PATH)
        try:
            sock.connect(f"/proc/self/fd/{node}")
        finally:
            os.close(node)
    except BaseException:
        sock.close()
        raise
    return sock


# -- proxies ---------------------------------------------------------------------------------------------------------


def find_proxy(address: Address) -> tuple[str, int, str] | None:
    """Host, port and USER:PASSWORD of the proxy for a WebSocket address, by HTTP_PROXY, HTTPS_PROXY and NO_PROXY."""
    if address.kind not in ("ws", "wss"):
        return None
    proxies = getproxies()
    text = proxies.get("https" if address.kind == "wss" else "http")
    if not text or proxy_bypass(host_and_port(address)):
        return None
    url = urlsplit(text if "://" in text else "http://" + text)
    if url.scheme != "http" or not url.hostname:
        raise ConnectionError(
            f"the proxy {text!r} is not of the form http://HOST:PORT; set it so, or name {address.host} in NO_PROXY"
        )
    user = f"{unquote(url.username)}:{unquote(url.password or '')}" if url.username else ""
    return url.hostname, url.port or 80, user


def basic_authorization(user: str) -> str:
    """The value of an Authorization header for USER:PASSWORD."""
    return "Basic " + base64.b64encode(user.encode()).decode()


def _ask_proxy(sock: socket.socket, address: Address, user: str, end: float) -> None:
    """Have a proxy connect us to the server."""
    target = host_and_port(address)
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if user:
        lines.append(f"Proxy-Authorization: {basic_authorization(user)}")
    sock.sendall("\r\n".join([*lines, "", ""]).encode())
    head = b""
    # One byte at a time: what follows the head belongs to the server.
    while not head.endswith(b"\r\n\r\n"):
        sock.settimeout(_left(end))
        letter = sock.recv(1)
        head += letter
        if not letter or len(head) > _HEAD_LIMIT:
            raise ConnectionError(f"the proxy closed the connection instead of connecting to {target}")
    status = head.split(b"\r\n", 1)[0].decode("latin-1")
    if status.split(" ")[1:2] != ["200"]:
        raise ConnectionError(f"the proxy did not connect to {target}: {status}")


# -- TLS -------------------------------------------------------------------------------------------------------------


def tls_context() -> ssl.SSLContext:
    """The context for the certificates that SSL_CERT_FILE and SSL_CERT_DIR name now.

    It is kept, because it takes longer to make than a report to send: make it before tasks are forked.
    """
    key = (os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
    if key not in _contexts:
        _contexts[key] = ssl.create_default_context()
    return _contexts[key]
