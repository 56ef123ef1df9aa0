"""A real browser on the agent's machine: no page that it shows gets through to the agent's API."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from agent_bed import PREFIX, MemoryAgent
from moongate.api.agent.local import LocalApi
from moongate.api.agent.parts import LocalParts
from testbed import free_port
from testbed.chromium import tab_of

PAGE = """<!doctype html><title>loading</title><img src="{api}/tun/shutdown"><script>
const calls = [
  () => fetch("{api}/tun/shutdown"),
  () => fetch("{api}/tun/shutdown", {{mode: "no-cors"}}),
  () => fetch("{api}/tun/shutdown", {{method: "POST", mode: "no-cors", body: "{{}}"}}),
  () => fetch("{api}/traffic/create", {{method: "POST", mode: "no-cors", body: '{{"https": [{{"domain": "a.test", "tls": 1}}]}}'}}),
  () => fetch("{rebound}/info"),
  () => fetch("{api}/info"),
];
(async () => {{
  const said = [];
  for (const call of calls) {{
    try {{ const answer = await call(); said.push(answer.type + answer.status); }} catch (error) {{ said.push("refused"); }}
  }}
  document.body.textContent = "done " + said.join(" ");
}})();
</script>"""


@pytest.fixture
def agent() -> MemoryAgent:
    return MemoryAgent()


async def show(page: str, port: int) -> asyncio.Server:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):  # a browser opens connections before it needs them
            await reader.readuntil(b"\r\n\r\n")
        body = page.encode()
        head = f"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        with suppress(OSError):
            await writer.drain()
        writer.close()

    return await asyncio.start_server(answer, "127.0.0.1", port)


def seen(url: str, folder: Path) -> str:
    """Return what the page says when all of its calls have ended."""
    with tab_of(url, folder) as tab:
        tab.wait("document.body && document.body.textContent.startsWith('done')")
        return str(tab.look("document.body.textContent"))


@pytest.fixture
async def visited(agent: MemoryAgent) -> AsyncIterator[tuple[LocalApi, int]]:
    port = free_port()
    api = LocalApi(LocalParts(agent=agent, origins=(f"http://friend.localhost:{port}",)), port=0)
    await api.start()
    # A browser takes every name under localhost to 127.0.0.1, as a rebound name would lead there.
    rebound = f"http://evil.localhost:{api.port}{PREFIX}"
    site = await show(PAGE.format(api=f"{api.url}{PREFIX}", rebound=rebound), port)
    yield api, port
    site.close()
    await api.aclose()


async def test_no_page_changes_or_reads_anything(
    agent: MemoryAgent, visited: tuple[LocalApi, int], tmp_path: Path
) -> None:
    _, port = visited
    for host in ("evil.localhost", "127.0.0.1", "localhost"):
        said = await asyncio.to_thread(seen, f"http://{host}:{port}/", tmp_path / host)
        assert said == "done refused opaque0 opaque0 opaque0 refused refused"
    assert agent.connected
    assert agent.book.rules() == []


async def test_a_page_that_was_allowed_may_read(
    agent: MemoryAgent, visited: tuple[LocalApi, int], tmp_path: Path
) -> None:
    _, port = visited
    said = await asyncio.to_thread(seen, f"http://friend.localhost:{port}/", tmp_path / "friend")
    # What it asks under a name that is not served is refused, and it may read that.
    assert said == "done cors200 opaque0 opaque0 opaque0 cors403 cors200"
