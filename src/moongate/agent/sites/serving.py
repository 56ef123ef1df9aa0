"""A visitor's channel that a folder answers: static files first, then the upstream behind it, if there is one.

The node sends the next request of a channel only after the answer to the one before it has ended
(docs/protocol/tunnel.md §5). So each request can be answered from another place, and what the upstream answers needs no
reading: it is over when the next request comes.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path
from typing import Any, Final

import structlog
from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpRequestParser

from moongate.agent.sites.answers import FIELDS, PLAIN, Asked, decide, file_head, text_head
from moongate.agent.sites.folder import FileCache, Folder, LargeFile, Moved, SmallFile, Unread
from moongate.agent.sites.passing import BehindSite, SwitchWatch
from moongate.agent.sites.paths import path_of, with_slash
from moongate.agent.sites.sending import FileSender
from moongate.relay.pump import Half, join, makes_way
from moongate.relay.turns import TURN_BYTES

# So many files are looked for on disks at a time: a dead network file system holds no more than these.
THREADS: Final = 4
NOT_FOUND_PAGE: Final = "404.html"
_FILE_METHODS: Final = frozenset((b"GET", b"HEAD"))
_NOTHING_ASKED: Final = Asked()
_LENGTH, _CODING = "content_length", "transfer_encoding"
_HEARD: Final = {**FIELDS, b"content-length": _LENGTH, b"transfer-encoding": _CODING}

# Why the reading of a channel is held, beside the upstream's own reasons (1).
_LOADING_HOLDS: Final = 2

# Where a channel is with its request: waiting for its head, looking for a file, sending one, or the request and all that
# belongs to it is the upstream's; it may also have asked for another protocol, or speak one.
_READY, _LOADING, _SENDING, _PASSING, _SWITCHING, _SWITCHED = range(6)

Reach = Callable[[Any, Callable[[], Half]], Awaitable[Half | None]]
"""Connects a channel's upstream with a protocol; None if that failed, and then the channel has been reset."""

log = structlog.get_logger(__name__)


class Sites:
    """What all sites of a process share: threads, remembered files, the date."""

    def __init__(self, *forbidden: Path) -> None:
        """`forbidden` are folders of which nothing is served, wherever they lie: the agent's own state."""
        self._forbidden = forbidden
        self._cache = FileCache()
        self.executor = ThreadPoolExecutor(THREADS, thread_name_prefix="files")
        self._second = 0
        self._date = b""

    def folder(self, directory: Path) -> Folder:
        """Return the folder at a path."""
        return Folder(directory, self._cache, self._forbidden)

    def date(self) -> bytes:
        """The rest of a head from the value of Date on (RFC 9110 §6.6.1)."""
        now = int(time.time())
        if now != self._second:
            self._second = now
            self._date = formatdate(now, usegmt=True).encode("ascii") + b"\r\n\r\n"
        return self._date


class Site(Half):
    """One visitor's channel to a folder, to an upstream, or to both."""

    __slots__ = (
        "_asked",
        "_base",
        "_begun",
        "_dial",
        "_folder",
        "_held",
        "_method",
        "_on_lost",
        "_parser",
        "_paused",
        "_reach",
        "_sender",
        "_sites",
        "_state",
        "_unframed",
        "_url",
        "_waiting",
        "_watch",
        "_whole",
        "bytes_sent",
    )

    def __init__(
        self,
        sites: Sites,
        folder: Folder | None,
        reach: Reach | None,
        on_lost: Callable[["Site"], None],
        *,
        base: bytes = b"",
    ) -> None:
        """`base` stands in front of every path that the upstream is asked for."""
        super().__init__()
        self._sites = sites
        self._folder = folder
        self._reach = reach
        self._base = base
        self._on_lost = on_lost
        self._parser: Any = HttpRequestParser(self)
        self._state = _READY
        self._url = b""
        self._method = b""
        self._asked: dict[str, bytes] | None = None
        self._begun = False  # a request is being read, or has been
        self._whole = False  # all of it
        self._unframed = False  # its body was not cut off what follows
        # The request as it came, while it may be the upstream's.
        self._held: list[bytes] | None = [] if reach is not None else None
        self._waiting: list[bytes] | None = None  # what the upstream gets once it is reached
        self._dial: asyncio.Task[None] | None = None
        self._watch: SwitchWatch | None = None
        self._sender: FileSender | None = None
        self._paused = False
        self.bytes_sent = 0

    # -- the channel

    def data_received(self, data: bytes) -> None:
        self.bytes_received += len(data)
        if self._state >= _SWITCHING:
            self._pass_on(data)
            return
        if self._unframed:
            return
        if self._whole and not self._next():
            return
        if self._state == _PASSING:
            self._pass_on(data)
        elif self._held is not None:
            self._held.append(data)
        self._feed(data)

    def _next(self) -> bool:
        """Make ready for another request; False if the one before it is not answered yet."""
        if self._state in (_LOADING, _SENDING):
            self._fail("a request came before the one before it was answered")
            return False
        self._state = _READY
        self._begun = self._whole = False
        self._held = [] if self._reach is not None else None
        return True

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            # httptools reads no further, be there a body or not.
            self._parser = HttpRequestParser(self)
        except HttpParserCallbackError as error:
            log.error("a folder's channel failed", exc_info=error.__context__ or error)
            self.transport.abort()
        except HttpParserError as error:
            self._fail(f"the request is malformed: {error}")

    def eof_received(self) -> bool:
        if self.is_passing:
            return super().eof_received()
        self._eof_received = True
        return self._state != _READY  # else it ends with the answer

    def pause_writing(self) -> None:
        self._paused = True
        super().pause_writing()
        if self._sender is not None:
            self._sender.pause()

    def resume_writing(self) -> None:
        self._paused = False
        super().resume_writing()
        if self._sender is not None:
            self._sender.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._sender is not None:
            self._sender.stop()
            self._sender = None
        if self._dial is not None:
            self._dial.cancel()
        self._parser = self._held = self._waiting = None
        self._on_lost(self)
        self.other = None

    def _fail(self, reason: str) -> None:
        log.info("a channel was ended", reason=reason)
        self.transport.abort()

    # -- the request, told by httptools

    def on_message_begin(self) -> None:
        if self._begun:
            self._fail("two requests came at once")
            return
        self._begun = True
        self._url = b""
        self._asked = None

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        field = _HEARD.get(name.lower())
        if field is not None:
            asked = self._asked = self._asked or {}
            asked[field] = asked[field] + b", " + value if field in asked else value

    def on_headers_complete(self) -> None:
        if self.lost or self._whole:
            return
        upgrade = self._parser.should_upgrade()
        self._method = self._parser.get_method()
        if self._reach is not None and (upgrade or self._method not in _FILE_METHODS):
            self._pass(switching=upgrade)
            return
        self._unframed = upgrade and self._has_body()
        self._answer()

    def _has_body(self) -> bool:
        asked = self._asked or {}
        return _CODING in asked or asked.get(_LENGTH, b"0") != b"0"

    def on_message_complete(self) -> None:
        self._whole = True

    # -- the answer

    def _answer(self) -> None:
        if self._method not in _FILE_METHODS:
            self._say(405, b"A folder is only read: use GET or HEAD.\n", (b"Allow", b"GET, HEAD"))
            return
        path = path_of(self._url)
        found = self._folder.look(path) if path is not None and self._folder is not None else None
        if isinstance(found, SmallFile):
            self._say_small(found)
        elif found is None:
            self._say_missing()
        elif isinstance(found, Moved):
            self._say(301, b"", (b"Location", with_slash(found.path, self._url)))
        else:
            self._load(found.path, 200)

    def _load(self, path: str, status: int) -> None:
        """Have a file opened; 404 says that it is the page for what was not found."""
        folder = self._folder
        if folder is None:
            return
        self._state = _LOADING
        self._reading.hold(_LOADING_HOLDS)
        loading = asyncio.get_running_loop().run_in_executor(self._sites.executor, folder.load, path)
        loading.add_done_callback(lambda loaded: self._loaded(loaded, path, status))

    def _loaded(self, loading: "asyncio.Future[SmallFile | LargeFile | None]", path: str, status: int) -> None:
        failure = None if loading.cancelled() else loading.exception()
        found = None if loading.cancelled() or failure else loading.result()
        if isinstance(found, SmallFile) and self._folder is not None:
            self._folder.remember(path, found)
        if self.lost:
            if isinstance(found, LargeFile):
                os.close(found.descriptor)
            return
        if failure is not None:
            log.error("a file could not be opened", exc_info=failure)
        self._state = _READY
        if status == 404:
            self._say_page(found)
        elif isinstance(found, SmallFile):
            self._say_small(found)
        elif isinstance(found, LargeFile):
            self._send_large(found)
        else:
            self._say_missing()
        self._reading.release(_LOADING_HOLDS)

    def _say_small(self, found: SmallFile) -> None:
        self._held = None
        if self._asked is None and self._method == b"GET":
            self._write(b"".join((found.head, self._sites.date(), found.body)))
        else:
            decision = decide(self._method, self._conditions(), found.facts)
            answer = file_head(decision, found.facts) + self._sites.date()
            if self._method == b"GET":
                answer += found.body[decision.start : decision.end]
            self._write(answer)
        self._answered()

    def _conditions(self) -> Asked:
        asked = self._asked
        return _NOTHING_ASKED if asked is None else Asked(*map(asked.get, Asked._fields))

    def _send_large(self, found: LargeFile) -> None:
        self._held = None
        decision = decide(self._method, self._conditions(), found.facts)
        self._write(file_head(decision, found.facts) + self._sites.date())
        if self._method == b"HEAD" or decision.start == decision.end:
            os.close(found.descriptor)
            self._answered()
            return
        self._state = _SENDING
        self.bytes_sent += decision.end - decision.start
        self._sender = FileSender(
            self.transport, found.descriptor, decision[1:], executor=self._sites.executor, on_end=self._was_sent
        )
        if not self._paused:
            self._sender.resume()

    def _was_sent(self, whole: bool) -> None:
        self._sender = None
        if whole:
            self._answered()
        else:
            # It became shorter, or cannot be read any more: the visitor must be able to tell.
            self.transport.abort()

    def _say_missing(self) -> None:
        if self._reach is not None:
            self._pass(switching=False)
            return
        page = self._folder.look(NOT_FOUND_PAGE) if self._folder is not None else None
        if isinstance(page, Unread):
            self._load(page.path, 404)
        else:
            self._say_page(page if isinstance(page, SmallFile) else None)

    def _say_page(self, page: SmallFile | LargeFile | None) -> None:
        """Say that nothing was found, with the folder's own page for that if it has one."""
        if isinstance(page, SmallFile):
            self._say(404, page.body, content_type=page.facts.content_type)
            return
        if page is not None:
            os.close(page.descriptor)
        self._say(404, b"Not found\n")

    def _say(self, status: int, text: bytes, *fields: tuple[bytes, bytes], content_type: bytes = PLAIN) -> None:
        self._held = None
        first = text_head(status, text, content_type, *fields) + self._sites.date()
        self._write(first if self._method == b"HEAD" else first + text)
        self._answered()

    def _write(self, answer: bytes) -> None:
        self.bytes_sent += len(answer)
        self.transport.write(answer)

    def _answered(self) -> None:
        self._state = _READY
        if self._eof_received or self._unframed:
            self.transport.close()

    # -- the upstream behind the folder

    @property
    def is_passing(self) -> bool:
        """Whether the request under way, or the last one, is the upstream's to answer."""
        return self._state >= _PASSING

    def _pass(self, *, switching: bool) -> None:
        """Hand the request, and what belongs to it, to the upstream."""
        held, self._held = _with_base(b"".join(self._held or ()), self._base), None
        self._state = _PASSING
        if switching:
            # With a body that is not cut off, whatever follows stays the upstream's.
            self._state = _SWITCHED if self._has_body() else _SWITCHING
            self._watch = SwitchWatch() if self._state == _SWITCHING else None
        if self.other is not None and not self.other.lost and not self.other.transport.is_closing():
            self.other.transport.write(held)
            return
        if self.other is not None:
            self.other.other = None  # on its way out
            self.other = None
        self._waiting = [held]
        self._dial = asyncio.get_running_loop().create_task(self._connect())

    def _pass_on(self, data: bytes) -> None:
        if self._waiting is not None:
            self._waiting.append(data)
        elif self.other is not None:
            self.other.transport.write(data)
            if len(data) >= TURN_BYTES and makes_way(self.transport):
                self._reading.make_way()

    async def _connect(self) -> None:
        upstream = await self._reach(self.transport, lambda: BehindSite(self)) if self._reach is not None else None
        self._dial = None
        if upstream is None:
            return
        waiting, self._waiting = self._waiting, None
        if self.lost or waiting is None:
            upstream.transport.abort()
            return
        join(self, upstream)
        upstream.transport.write(b"".join(waiting))
        if self._paused:
            upstream.hold()
        if self._eof_received:
            upstream.end_writing()

    def upstream_said(self, data: bytes) -> None:
        """Take note of a piece of an answer that passes."""
        self.bytes_sent += len(data)
        if self._watch is not None and (status := self._watch.feed(data)):
            self._watch = None
            self._state = _SWITCHED if status == 101 else _PASSING

    def upstream_lost(self, upstream: Half) -> None:
        """Forget a connection that is over."""
        if self.other is upstream:
            self.other = None


def _with_base(request: bytes, base: bytes) -> bytes:
    """Put a path in front of that of a request in origin-form; `*` stays what it is."""
    method, space, rest = request.partition(b" ")
    return b"".join((method, space, base, rest)) if rest.startswith(b"/") else request
