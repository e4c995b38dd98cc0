"""A real HTTP server on loopback that answers like an OpenAI-compatible endpoint, and misbehaves as it is told.

Either in a thread, with a function of the test that decides every reply (``serve``); or in a process of its own, with
a seeded schedule of faults (``serve_apart``), so that it shares no interpreter lock with the client it measures and
outlives the clients that a test kills. Every request is logged: when it came, what it asked, what was done with it.
"""

import asyncio
import contextlib
import email.utils
import hashlib
import json
import os
import random
import re
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HANG = 60.0  # longer than any timeout of a test

# How far this server's clock is from that of the machine, in seconds. Only differences of its dates can be trusted.
WRONG_BY = -5 * 3600.0

# What may be done with a request, and how often per request. The first table gives no completion, so the client has to
# try again; the second gives a completion with something wrong in it.
NO_COMPLETION = {
    "429": 0.03,
    "429, Retry-After in seconds": 0.01,
    "429, Retry-After as a date": 0.003,
    "429, retry-after-ms": 0.01,
    "500": 0.03,
    "503": 0.03,
    "connection reset": 0.03,
    "hang past the timeout": 0.01,
    "truncated JSON": 0.02,
    "truncated transfer": 0.02,
    "wrong content type": 0.03,
    "empty choices": 0.03,
}
STRANGE_ANSWER = {
    "invented items": 0.05,
    "duplicate items": 0.05,
    "empty answer": 0.03,
    "refusal": 0.03,
}
FAULTS = NO_COMPLETION | STRANGE_ANSWER
UNUSABLE = ("empty answer", "refusal")


@dataclass(frozen=True)
class Request:
    """What arrived. ``earlier`` says how often the same body came before."""

    path: str
    headers: dict[str, str]
    raw: bytes
    earlier: int

    @property
    def body(self) -> dict[str, Any]:
        return json.loads(self.raw)

    @property
    def message(self) -> str:
        return self.body["messages"][0]["content"]


@dataclass(frozen=True)
class Reply:
    """What goes back: after ``delay`` seconds, only the first ``cut`` bytes if given; then ``hang`` seconds of nothing.

    ``what`` is its name in the log; ``answers`` whether it is a whole completion.
    """

    what: str
    content: str = ""
    status: int = 200
    reason: str = "Whatever"
    headers: dict[str, str] = field(default_factory=dict)
    answers: bool = False
    tokens: tuple[int, int] = (0, 0)
    delay: float = 0.0
    cut: int | None = None
    hang: float = 0.0
    reset: bool = False

    def bytes(self) -> bytes:
        """The reply as it goes over the wire."""
        content = self.content.encode(errors="surrogatepass")
        headers = {"Content-Type": "application/json", "Content-Length": str(len(content))} | self.headers
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"HTTP/1.1 {self.status} {self.reason}\r\n{head}\r\n".encode() + content


Script = Callable[[Request], Reply]


@dataclass
class Seen:
    """One line of the log. ``answered`` is set once a completion has been handed to the connection."""

    at: float
    body: str
    what: str
    tokens: tuple[int, int] = (0, 0)
    answered: bool = False


# --- replies --------------------------------------------------------------------------------------------------------


def fingerprint(body: dict[str, Any]) -> str:
    """The hash of a body, the same for client and server."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def candidates(message: str) -> list[str]:
    """What a prompt offers for ranking: labels where there are labels, titles where there are none."""
    offered = message.split("Here are the candidate ")[1]
    return re.findall(r"^(C\d+) ", offered, re.M) or re.findall(r"^- (.*)$", offered, re.M)


def completion(request: Request, text: str | None, what: str = "answered", **reply: Any) -> Reply:
    """A whole completion with that text, and the tokens the server bills for it: a word each."""
    tokens = (len(request.message.split()), len((text or "").split()))
    content = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)},
    }
    return Reply(what, json.dumps(content), answers=True, tokens=tokens, **reply)


def ranked(request: Request, order: list[str] | None = None, what: str = "answered", **reply: Any) -> Reply:
    """A completion that ranks: the candidates as shown, or in the order given."""
    order = candidates(request.message) if order is None else order
    return completion(request, (" > " if order[0].startswith("C") else "\n").join(order), what, **reply)


def error(
    status: int, message: str = "no", code: str = "", headers: dict[str, str] | None = None, delay: float = 0.0
) -> Reply:
    """An error as OpenAI words it."""
    content = json.dumps({"error": {"message": message, "type": "error", "code": code}})
    return Reply(str(status), content, status, headers=headers or {}, delay=delay)


def dates(wait: float, wrong_by: float = WRONG_BY) -> dict[str, str]:
    """The headers of a server that wants so many seconds, by a clock that is wrong."""
    now = time.time() + wrong_by
    moments = {"Date": now, "Retry-After": now + wait}
    return {name: email.utils.formatdate(moment, usegmt=True) for name, moment in moments.items()}


def misbehave(what: str, request: Request, order: list[str]) -> Reply:
    """The reply of a fault by its name."""
    whole = ranked(request, order).content
    match what:
        case "429" | "500" | "503":
            return Reply(what, "busy", int(what))
        case "429, Retry-After in seconds":
            return Reply(what, "slow down", 429, headers={"Retry-After": "1"})
        case "429, Retry-After as a date":
            return Reply(what, "slow down", 429, headers=dates(2))
        case "429, retry-after-ms":
            return Reply(what, "slow down", 429, headers={"Retry-After-Ms": "50"})
        case "connection reset":
            return Reply(what, reset=True)
        case "hang past the timeout":
            return Reply(what, cut=0, hang=HANG)
        case "truncated JSON":
            return Reply(what, whole[: len(whole) // 2])
        case "truncated transfer":
            return Reply(what, whole, cut=len(whole) // 2)
        case "wrong content type":
            return Reply(what, "<html><h1>Bad gateway</h1></html>", headers={"Content-Type": "text/html"})
        case "empty choices":
            return Reply(what, '{"choices": []}')
        case "invented items":
            return ranked(request, ["C4711 The Film That Never Was", *order[1:]], what)
        case "duplicate items":
            return ranked(request, [order[0], *order[:-1]], what)
        case "empty answer":
            return completion(request, None, what)
        case "refusal":
            return completion(request, "I'm sorry, but I cannot help with that.", what)
    raise ValueError(f"no fault is called {what!r}")


@dataclass(frozen=True)
class Schedule:
    """Chance that can be repeated: what befalls a request depends on the seed, its body and how often it came before.

    ``faults`` gives each fault's share of the requests, ``refused`` the share of bodies that are always answered 400.
    """

    seed: int = 0
    faults: dict[str, float] = field(default_factory=dict)
    refused: float = 0.0
    delay: float = 0.0

    def __call__(self, request: Request) -> Reply:
        body = fingerprint(request.body)
        if random.Random(f"{self.seed} {body}").random() < self.refused:
            return error(400, "this prompt is too long")
        chance = random.Random(f"{self.seed} {body} {request.earlier}")
        order = candidates(request.message)
        chance.shuffle(order)
        names, shares = [*self.faults, ""], [*self.faults.values(), 1 - sum(self.faults.values())]
        (what,) = chance.choices(names, shares)
        return misbehave(what, request, order) if what else ranked(request, order, delay=self.delay)


# --- the server -----------------------------------------------------------------------------------------------------


class FaultServer:
    """The server; ``url`` is its base URL. ``requests`` holds what arrived in full, if wanted (it takes memory).

    With a ``certificate`` (a file with a key and its certificate) it speaks HTTPS.
    """

    def __init__(self, script: Script, keep_requests: bool = False, certificate: Path | None = None) -> None:
        self.script, self.keep_requests, self.certificate = script, keep_requests, certificate
        self.url = ""
        self.log: list[Seen] = []
        self.requests: list[Request] = []
        self._times: Counter[str] = Counter()

    async def run(self, started: Callable[[], None]) -> None:
        """Serve until cancelled."""
        secure = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) if self.certificate else None
        if secure:
            secure.load_cert_chain(self.certificate)
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, ssl=secure)
        self.url = f"http{'s' if secure else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        started()
        await server.serve_forever()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._exchange(reader, writer):
                pass
        writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its reply; whether the connection can be used again."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
        if method == "GET":  # the test asks for the log
            what = len(self.log) if path == "/v1/count" else [asdict(seen) for seen in self.log]
            writer.write(Reply("log", json.dumps(what)).bytes())
            await writer.drain()
            return True
        body = fingerprint(json.loads(raw))
        request = Request(path, headers, raw, self._times[body])
        self._times[body] += 1
        if self.keep_requests:
            self.requests.append(request)
        reply = self.script(request)
        seen = Seen(time.time(), body, reply.what, reply.tokens)
        self.log.append(seen)
        return await self._send(reply, seen, writer)

    async def _send(self, reply: Reply, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        if reply.delay:
            await asyncio.sleep(reply.delay)
        if reply.reset:  # lingering for no time: the other side sees "connection reset by peer"
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
            return False
        writer.write(reply.bytes()[: reply.cut])
        await writer.drain()
        seen.answered = reply.answers and reply.cut is None
        await asyncio.sleep(reply.hang)
        return reply.cut is None


@contextlib.contextmanager
def serve(script: Script = ranked, certificate: Path | None = None) -> Iterator[FaultServer]:
    """A server in a thread, which keeps every request."""
    server = FaultServer(script, keep_requests=True, certificate=certificate)
    started, loops = threading.Event(), []

    async def run() -> None:
        loops.append((asyncio.get_running_loop(), asyncio.current_task()))
        with contextlib.suppress(asyncio.CancelledError):
            await server.run(started.set)

    thread = threading.Thread(target=asyncio.run, args=(run(),), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield server
    finally:
        loop, task = loops[0]
        loop.call_soon_threadsafe(task.cancel)
        thread.join(10)


@dataclass
class Apart:
    """A server in a process of its own."""

    url: str

    def log(self) -> list[Seen]:
        """All that was seen so far, in order of arrival."""
        return [Seen(**{**seen, "tokens": tuple(seen["tokens"])}) for seen in self._get("log")]

    def count(self) -> int:
        """How many requests were seen so far."""
        return self._get("count")

    def _get(self, what: str) -> Any:
        with urllib.request.urlopen(f"{self.url}/{what}", timeout=30) as reply:
            return json.load(reply)


@contextlib.contextmanager
def serve_apart(schedule: Schedule) -> Iterator[Apart]:
    """A server in a process of its own; it ends with this one, since that closes its standard input."""
    settings = json.dumps(asdict(schedule))
    command = [sys.executable, __file__, settings]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Apart(process.stdout.readline().strip())
        finally:
            process.kill()


# --- reading the log ------------------------------------------------------------------------------------------------


def answers_by_body(log: list[Seen]) -> Counter[str]:
    """How often each body was answered with a whole completion."""
    return Counter(seen.body for seen in log if seen.answered)


def most_within(log: list[Seen], seconds: float) -> int:
    """The most requests that arrived within any window of that length."""
    times = [seen.at for seen in log]
    return max(bisect_left(times, start + seconds) - number for number, start in enumerate(times))


def main() -> None:
    server = FaultServer(Schedule(**json.loads(sys.argv[1])))
    threading.Thread(target=lambda: (sys.stdin.read(), server_ends()), daemon=True).start()
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(server.run(lambda: print(server.url, flush=True)))


def server_ends() -> None:
    """The test that started this server is gone."""
    os._exit(0)


if __name__ == "__main__":
    main()
