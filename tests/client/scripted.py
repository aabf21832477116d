"""A Bulk Data server that is not ours and does what a script says, bad manners included."""

import asyncio
from collections import defaultdict
from contextlib import asynccontextmanager

import msgspec


class Reply(msgspec.Struct, frozen=True):
    """
    One HTTP response.

    `cut` closes the connection after that many bytes of the body, `stall` keeps it open after
    them and sends nothing more.
    """

    status: int = 200
    headers: dict[str, str] = {}
    body: bytes = b""
    cut: int | None = None
    stall: int | None = None


class Request(msgspec.Struct, frozen=True):
    """One HTTP request as it came in."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


class Server:
    """A server with scripted responses for each method and path; the last one is repeated."""

    def __init__(self) -> None:
        self.scripts: dict[tuple[str, str], list[Reply]] = defaultdict(list)
        self.requests: list[Request] = []
        self.url = ""
        self.stalled = asyncio.Event()
        """Set when a response has been sent as far as it will be."""

    def say(self, method: str, path: str, *replies: Reply) -> None:
        self.scripts[method, path] += replies

    def exports(self, *files: dict, polls: tuple[Reply, ...] = (), **lists: list[dict]) -> None:
        """Script a complete export whose manifest has these files."""
        location = {"Content-Location": f"{self.url}/jobs/1"}
        self.say("GET", "/$export", Reply(202, location))
        manifest = {
            "transactionTime": "2026-01-01T00:00:00Z",
            "request": f"{self.url}/$export",
            "requiresAccessToken": False,
            "output": list(files),
            "error": [],
        } | lists
        done = Reply(200, {"Content-Type": "application/json"}, msgspec.json.encode(manifest))
        self.say("GET", "/jobs/1", *polls, done)
        self.say("DELETE", "/jobs/1", Reply(202))

    def asked(self, method: str, path: str) -> list[Request]:
        return [each for each in self.requests if (each.method, each.path) == (method, path)]

    def _next(self, request: Request) -> Reply:
        script = self.scripts[request.method, request.path]
        if not script:
            return Reply(404)
        return script.pop(0) if len(script) > 1 else script[0]

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await _head(reader):
                self.requests.append(head)
                reply = self._next(head)
                writer.write(_encoded(reply))
                await writer.drain()
                if reply.cut is not None:
                    break
                if reply.stall is not None:
                    self.stalled.set()
                    await reader.read()
                    break
        except ConnectionError:
            pass
        finally:
            writer.close()


async def _head(reader: asyncio.StreamReader) -> Request | None:
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *rest = raw.decode().strip().split("\r\n")
    method, target, _ = first.split(" ")
    pairs = (line.split(": ", 1) for line in rest)
    headers = {name.lower(): value for name, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, target, headers, body)


def _encoded(reply: Reply) -> bytes:
    headers = {"Content-Length": str(len(reply.body))} | reply.headers
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"HTTP/1.1 {reply.status} Scripted\r\n{lines}\r\n".encode()
    return head + reply.body[: reply.cut if reply.stall is None else reply.stall]


@asynccontextmanager
async def running():
    server = Server()
    listener = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    async with listener:
        host, port = listener.sockets[0].getsockname()
        server.url = f"http://{host}:{port}"
        yield server
