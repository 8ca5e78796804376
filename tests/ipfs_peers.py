"""Real HTTP servers on 127.0.0.1 that behave as peers do, well or badly."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Answer = Callable[[socket.socket, str], None]
"""Answers one request, of which it is given the path, by writing whatever it likes to the socket."""


@contextmanager
def peer(answer: Answer) -> Iterator[str]:
    """A server that gives every connection's first request to `answer` and then closes; yields its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def serve_one(connection: socket.socket) -> None:
        with connection:
            try:
                request = b""
                while b"\r\n\r\n" not in request:
                    received = connection.recv(4096)
                    if not received:
                        return
                    request += received
                answer(connection, request.split(b" ", 2)[1].decode())
            except OSError:
                pass  # the other side had enough, which is what such peers are for

    def serve() -> None:
        while not stop.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.settimeout(5)
            threading.Thread(target=serve_one, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        stop.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def head(length: int | None = None, status: str = "200 OK", extra: str = "") -> bytes:
    stated = f"Content-Length: {length}\r\n" if length is not None else ""
    return f"HTTP/1.1 {status}\r\n{stated}{extra}Connection: close\r\n\r\n".encode()


def says(body: bytes, status: str = "200 OK", extra: str = "") -> Answer:
    return lambda connection, path: connection.sendall(head(len(body), status, extra) + body)
