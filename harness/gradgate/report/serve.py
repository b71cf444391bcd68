"""One page, served to this machine alone."""

from __future__ import annotations

from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from gradgate.core.errors import GradgateError


def server(file: Path, port: int) -> HTTPServer:
    """A server that answers with one file, read anew at each request, and knows no other.

    Args:
        file: the page.
        port: where to listen on 127.0.0.1; 0 takes a free one.

    Raises:
        GradgateError: there is no such file, or the port is taken.
    """
    if not file.is_file():
        raise GradgateError(f"{file}: no such file; build it with `gradgate report build`")

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/":
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            data = file.read_bytes()
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            """Say nothing: a reload is no news."""

    try:
        return HTTPServer(("127.0.0.1", port), Page)
    except (OSError, OverflowError) as error:
        raise GradgateError(f"--port {port}: cannot listen there: {error}") from error
