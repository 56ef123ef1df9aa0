"""The upstream behind a folder: gets the requests that the folder has no file for, and its answers pass untouched."""

from typing import Protocol

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from moongate.relay.pump import Half


class Before(Protocol):
    """Who stands before the upstream: the folder's end of the channel."""

    @property
    def is_passing(self) -> bool: ...
    def upstream_said(self, data: bytes) -> None: ...
    def upstream_lost(self, upstream: Half) -> None: ...


class BehindSite(Half):
    """The upstream's side of a pair whose other side answers some requests itself."""

    __slots__ = ("_site",)

    def __init__(self, site: Before) -> None:
        super().__init__()
        self._site = site

    def data_received(self, data: bytes) -> None:
        if self._site.is_passing:
            self._site.upstream_said(data)
            super().data_received(data)
        else:
            self.transport.abort()  # it speaks without being asked

    def eof_received(self) -> bool:
        # An idle upstream that leaves takes nobody with it.
        return super().eof_received() if self._site.is_passing else False

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._site.is_passing:
            self.other = None
        super().connection_lost(exc)
        self._site.upstream_lost(self)


class SwitchWatch:
    """Reads the answer to a request that asked for another protocol, as far as its final status."""

    def __init__(self) -> None:
        self._parser: HttpResponseParser = HttpResponseParser(self)
        self._status = 0

    def feed(self, data: bytes) -> int:
        """Return the status, 0 as long as it is not known; 101 also for what is no HTTP at all."""
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            return 101
        except HttpParserError:
            return self._status or 101
        return self._status

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if not self._status and (status >= 200 or status == 101):
            self._status = status
