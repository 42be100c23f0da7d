"""Where the page is to listen, looked at before anything is fetched for it; imports nothing heavy."""

import errno
import os
import socket

from engine.errors import BadInput


def check(host: str, port: int) -> None:
    """Raises BadInput where nothing can listen at that port of that address."""
    if not 1 <= port <= 65_535:
        raise BadInput(f"There is no port {port}. Choose one from 1 to 65535 with --port.")
    for address in ("127.0.0.1", host.strip("[]")):  # Gradio takes the port of the first one too, whatever the host is
        try:
            _bound(address, port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise BadInput(f"Port {port} is taken. Choose another one with --port.") from error
            if error.errno == errno.EACCES:
                raise BadInput(f"Port {port} may not be used ({error.strerror}). Choose another one with --port.") from error
            raise BadInput(f"{host} is no address of this machine. Leave --host out, or give 0.0.0.0 to let other machines in.") from error


def free(port: int) -> int:
    """The port, or another one where something of this machine listens there."""
    try:
        return _bound("127.0.0.1", port)
    except OSError:
        return _bound("127.0.0.1", 0)


def _bound(address: str, port: int) -> int:
    """A port that can be listened at: this one, of 0 any. Raises OSError."""
    family, kind, protocol, _, place = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        if os.name == "posix":  # what a page that has just ended leaves of its connections takes no port
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(place)
        return probe.getsockname()[1]
