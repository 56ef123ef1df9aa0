"""Programs that others wrote, at our door."""

import asyncio
import json
import os
import shutil
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from testbed.doors import Door, open_door, read_answer, trusting
from testbed.pem import write_pair

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])


async def run(*command: str | Path) -> tuple[int, str]:
    """Run a program to its end; return its exit code and all that it printed."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    printed, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode is not None
    return process.returncode, printed.decode(errors="replace")


async def test_curl_believes_the_authority_for_a_public_name_and_an_address(
    home: Path, require_peer: Callable[[str], str]
) -> None:
    curl = require_peer("curl")
    async with open_door(home) as door:
        for host in ("a.localhost", "localhost", "127.0.0.1"):
            code, body = await run(curl, "-sS", "--cacert", door.ca, f"https://{host}:{door.port}/")
            assert code == 0, body
            assert json.loads(body)["tls"] is True


@pytest.mark.parametrize("options", [[], ["--cacert"]])
async def test_curl_refuses_a_wrong_name_or_an_unknown_authority(
    home: Path, require_peer: Callable[[str], str], options: list[str]
) -> None:
    curl = require_peer("curl")
    async with open_door(home) as door:
        trust = [*options, str(door.ca)] if options else []
        host = "wrong.example" if options else "a.localhost"
        to = f"{host}:{door.port}:127.0.0.1"
        code, printed = await run(curl, "-sS", *trust, "--resolve", to, f"https://{host}:{door.port}/")
        assert code == 60, printed


async def test_curl_speaks_for_another_peer_only_when_it_is_trusted(
    home: Path, require_peer: Callable[[str], str]
) -> None:
    curl = require_peer("curl")
    async with open_door(home, trusted_proxies=["127.0.0.1"]) as door:
        url = f"https://a.localhost:{door.port}/"
        code, body = await run(curl, "-sS", "--haproxy-protocol", "--cacert", door.ca, url)
        assert code == 0, body
        assert json.loads(body)["via"].startswith("127.0.0.1:")


async def test_openssl_sees_the_whole_chain_and_the_newest_protocol(
    home: Path, require_peer: Callable[[str], str]
) -> None:
    openssl = require_peer("openssl")
    async with open_door(home) as door:
        code, printed = await run(
            *(openssl, "s_client", "-connect", f"127.0.0.1:{door.port}", "-servername", "a.localhost"),
            *("-CAfile", door.ca, "-verify_hostname", "a.localhost", "-verify_return_error", "-x509_strict"),
            *("-alpn", "h2,http/1.1", "-showcerts"),
        )
        assert code == 0, printed
        assert "Verify return code: 0 (ok)" in printed
        assert "New, TLSv1.3" in printed
        assert "ALPN protocol: http/1.1" in printed
        assert printed.count("BEGIN CERTIFICATE") == 2


async def test_openssl_finds_no_protocol_older_than_tls_1_2(home: Path, require_peer: Callable[[str], str]) -> None:
    openssl = require_peer("openssl")
    async with open_door(home) as door:
        target = ("-connect", f"127.0.0.1:{door.port}", "-servername", "a.localhost", "-CAfile", door.ca)
        code, printed = await run(openssl, "s_client", *target, "-tls1_2")
        assert code == 0, printed
        for old in ("-tls1_1", "-tls1"):
            code, printed = await run(openssl, "s_client", *target, old, "-cipher", "ALL:@SECLEVEL=0")
            assert code != 0, printed


async def test_the_strict_checks_of_newer_pythons_pass(home: Path) -> None:
    """From 3.13 on Python asks for X.509 strictness by itself, as OpenSSL does on request above."""
    python = await newer_python()
    program = (
        "import socket, ssl, sys\n"
        "context = ssl.create_default_context(cafile=sys.argv[1])\n"
        "assert context.verify_flags & ssl.VERIFY_X509_STRICT\n"
        "for name in ('a.localhost', 'localhost', '127.0.0.1'):\n"
        "    with socket.create_connection(('127.0.0.1', int(sys.argv[2]))) as sock:\n"
        "        with context.wrap_socket(sock, server_hostname=name) as tls:\n"
        "            print(tls.version())\n"
    )
    async with open_door(home) as door:
        code, printed = await run(python, "-c", program, door.ca, str(door.port))
        assert code == 0, printed
        assert printed.split() == ["TLSv1.3"] * 3


async def newer_python() -> str:
    for path in pythons():
        # A version manager's placeholder is found, too, but does not run.
        if (await run(path, "-c", "import ssl"))[0] == 0:
            return path
    pytest.skip("no Python 3.13 or newer is here")


def pythons() -> list[str]:
    versions = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    named = [path for name in ("python3.14", "python3.13") if (path := shutil.which(name)) is not None]
    return named + [str(path) for path in sorted(versions.glob("3.1[3-9].*/bin/python3"))]


async def test_given_files_are_reloaded_under_live_connections(home: Path, tmp_path: Path) -> None:
    given = write_pair(tmp_path / "given", "a.localhost", "first.example")
    async with open_door(home, given=given) as door:
        watching = asyncio.create_task(door.certificates.watch(0.02))
        trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trust.load_verify_locations(given[0])
        reader, writer = await asyncio.open_connection(door.host, door.port, ssl=trust, server_hostname="first.example")
        given[0].write_text("broken")
        # The broken file was looked at when a later change has been seen.
        await asyncio.sleep(0.1)
        assert (await door.ask(tls=trust))["tls"] is True
        write_pair(tmp_path / "given", "a.localhost", "second.example")
        second = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        second.load_verify_locations(given[0])
        await until_serves(door, second)
        with pytest.raises(ssl.SSLCertVerificationError):
            await door.ask(tls=trust)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert (await read_answer(reader))["server_name"] == "first.example"
        writer.transport.abort()
        watching.cancel()


async def until_serves(door: Door, trust: ssl.SSLContext) -> None:
    for _ in range(200):
        try:
            await door.ask(tls=trust)
        except ssl.SSLCertVerificationError:
            await asyncio.sleep(0.02)
        else:
            return
    pytest.fail("the new certificate was never shown")


async def test_agents_that_pin_the_authority_do_not_mind_given_files(home: Path, tmp_path: Path) -> None:
    given = write_pair(tmp_path / "given", "localhost", "a.localhost")
    async with open_door(home, given=given) as door:
        pinned = trusting(door, strict=True)
        with pytest.raises(ssl.SSLCertVerificationError):
            await door.ask(tls=pinned)
        pinned.set_alpn_protocols(["moongate-own-ca", "http/1.1"])
        assert (await door.ask(tls=pinned))["alpn"] == "http/1.1"
