"""TCP and TLS tunnels, tried by the programs that people put through them."""

import hashlib
import os
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from peers_bed import Site, Tunnel, curl
from testbed import free_port, require_peer
from testbed.daemons import SshServer, daemon, nginx, ssh_server
from testbed.pem import write_pair
from testbed.postgresql import PostgreSQL

pytestmark = [pytest.mark.timeout(120)]

Publish = Callable[..., Tunnel]
MIB = 1 << 20
# -- PostgreSQL

FIFTY_MEGABYTES = "COPY (SELECT repeat(md5(i::text), 32) FROM generate_series(1, 50000) AS i) TO STDOUT"


@pytest.fixture(scope="module")
def postgresql() -> Iterator[PostgreSQL]:
    server = PostgreSQL()
    yield server
    server.stop()


def psql(port: int, *arguments: str, feed: bytes | None = None) -> bytes:
    place = ["-h", "127.0.0.1", "-p", str(port), "-U", "moongate", "-d", "postgres"]
    command = [require_peer("psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", *place, *arguments]
    done = subprocess.run(command, input=feed, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_psql_asks_and_copies_fifty_megabytes_both_ways(publish: Publish, postgresql: PostgreSQL) -> None:
    tunnel = publish("tcp", str(postgresql.port))
    assert psql(tunnel.port, "-c", "SELECT 6 * 7") == b"42\n"
    rows = psql(tunnel.port, "-c", FIFTY_MEGABYTES)
    assert len(rows) == 50_000 * 1025
    assert hashlib.sha256(rows).digest() == hashlib.sha256(psql(postgresql.port, "-c", FIFTY_MEGABYTES)).digest()
    psql(tunnel.port, "-c", "DROP TABLE IF EXISTS copied", "-c", "CREATE TABLE copied (line text)")
    psql(tunnel.port, "-c", "COPY copied FROM STDIN", feed=rows)
    assert psql(tunnel.port, "-c", "SELECT count(*), sum(length(line)) FROM copied") == b"50000|51200000\n"


def test_a_notification_reaches_a_session_that_only_listens(publish: Publish, postgresql: PostgreSQL) -> None:
    tunnel = publish("tcp", str(postgresql.port))
    script = b"LISTEN news;\nNOTIFY news, 'something happened';\nSELECT 1;\n"
    assert b"something happened" in psql(tunnel.port, feed=script)


# -- SSH


@pytest.fixture(scope="module")
def ssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with ssh_server(tmp_path_factory.mktemp("ssh")) as server:
        yield server


def run(*command: str, feed: bytes | None = None) -> bytes:
    done = subprocess.run(command, input=feed, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_ssh_runs_a_command_and_brings_its_exit_code(publish: Publish, ssh: SshServer) -> None:
    tunnel = publish("tcp", str(ssh.port))
    login = [require_peer("ssh"), *ssh.options, "-p", str(tunnel.port), ssh.place]
    assert run(*login, "echo here; cat", feed=b"and back") == b"here\nand back"
    assert subprocess.run([*login, "exit 7"], stdin=subprocess.DEVNULL, timeout=60).returncode == 7


@pytest.mark.parametrize("legacy", [(), ("-O",)], ids=["over sftp", "over the old protocol"])
def test_scp_carries_twenty_megabytes_there_and_back(
    publish: Publish, ssh: SshServer, tmp_path: Path, legacy: tuple[str, ...]
) -> None:
    tunnel = publish("tcp", str(ssh.port))
    content = os.urandom(20 * MIB)
    (tmp_path / "here").write_bytes(content)
    scp = [require_peer("scp"), *legacy, "-q", *ssh.options, "-P", str(tunnel.port)]
    run(*scp, str(tmp_path / "here"), f"{ssh.place}:{tmp_path}/there")
    run(*scp, f"{ssh.place}:{tmp_path}/there", str(tmp_path / "back"))
    assert (tmp_path / "there").read_bytes() == content
    assert (tmp_path / "back").read_bytes() == content


def test_many_sessions_share_the_tunnel_without_waiting_for_each_other(publish: Publish, ssh: SshServer) -> None:
    tunnel = publish("tcp", str(ssh.port))
    login = [require_peer("ssh"), *ssh.options, "-p", str(tunnel.port), ssh.place]
    # One that floods, and one that asks meanwhile.
    with subprocess.Popen(
        [*login, "head -c 100000000 /dev/zero"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as flood:
        assert flood.stdout is not None
        flood.stdout.read(1)
        assert run(*login, "echo asked") == b"asked\n"
        flood.kill()


# -- what the upstream is told about the visitor


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_nginx_behind_a_tunnel_learns_the_visitors_address_from_the_proxy_protocol(
    publish: Publish, tmp_path: Path, version: str
) -> None:
    server = 'listen 127.0.0.1:{port} proxy_protocol; return 200 "$proxy_protocol_addr $proxy_protocol_port\\n";'
    with nginx(tmp_path / "nginx", server) as port:
        tunnel = publish("tcp", f"127.0.0.1:{port}", "--proxy-protocol", version)
        wanted = free_port("127.0.0.5")
        there = ("--interface", "127.0.0.5", "--local-port", str(wanted), f"http://127.0.0.1:{tunnel.port}/")
        assert curl(*there).stdout == f"127.0.0.5 {wanted}\n"


def first_visitor(upstream: socket.socket) -> tuple[socket.socket, bytes]:
    """Return the first connection that says something: the agent's probe of the upstream says nothing."""
    while True:
        connection, _ = upstream.accept()
        connection.settimeout(10)
        seen = b"".join(iter(lambda: connection.recv(100), b""))  # noqa: B023  # used at once
        if seen:
            return connection, seen
        connection.close()


def test_without_the_option_nothing_is_put_before_the_visitors_bytes(publish: Publish) -> None:
    with socket.create_server(("127.0.0.1", 0)) as upstream:
        tunnel = publish("tcp", str(upstream.getsockname()[1]))
        with socket.create_connection(("127.0.0.1", tunnel.port), 10) as visitor:
            visitor.sendall(b"first")
            visitor.shutdown(socket.SHUT_WR)
            upstream.settimeout(10)
            connection, seen = first_visitor(upstream)
            with connection:
                assert seen == b"first", "half a connection ended before the other"
                connection.sendall(b"answer after the visitor's end")
            assert visitor.makefile("rb").read() == b"answer after the visitor's end"


# -- TLS that the node cannot read


@pytest.fixture(params=["openssl", "nginx"])
def tls_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A TLS server with a certificate of its own authority; its port and that certificate."""
    cert, key = write_pair(tmp_path / "pem", "vault.localhost")
    if request.param == "nginx":
        tls = f"ssl_certificate {cert}; ssl_certificate_key {key};"
        with nginx(tmp_path / "nginx", f'listen 127.0.0.1:{{port}} ssl; {tls} return 200 "marked answer\\n";') as port:
            yield port, cert
        return
    port = free_port()
    (tmp_path / "page").write_text("marked answer\n", encoding="utf-8")
    command = [require_peer("openssl"), "s_server", "-quiet", "-accept", f"127.0.0.1:{port}", "-WWW"]
    with daemon([*command, "-cert", str(cert), "-key", str(key)], tmp_path, port):
        yield port, cert


def test_tls_passes_through_and_the_node_never_decrypts_it(
    publish: Publish, site: Site, tls_server: tuple[int, Path]
) -> None:
    port, cert = tls_server
    tunnel = publish("tls", f"127.0.0.1:{port}", "--subdomain", "vault")
    public = urlsplit(tunnel.url)
    assert (public.scheme, public.hostname, public.port) == ("tls", "vault.localhost", site.port)
    url = f"https://vault.localhost:{site.port}/page"
    resolve = ("--resolve", f"vault.localhost:{site.port}:127.0.0.1")
    # With nothing but the upstream's own authority; then over a name that only SNI carries.
    assert curl("--cacert", str(cert), *resolve, url).stdout == "marked answer\n"
    connect = ("--connect-to", f"vault.localhost:443:127.0.0.1:{site.port}")
    assert curl("--cacert", str(cert), *connect, "https://vault.localhost/page").stdout == "marked answer\n"
    refused = curl("--cacert", str(site.home / "ca.pem"), *resolve, url, check=False)
    assert refused.returncode == 60, "the node's own authority vouches for it"
    assert ssl.PEM_cert_to_DER_cert(cert.read_text(encoding="utf-8")) == _certificate_seen(site.port)
    assert site.api(f"/api/tunnels/{tunnel.id}/requests").json() == []


def _certificate_seen(port: int) -> bytes | None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port), 10) as raw,
        context.wrap_socket(raw, server_hostname="vault.localhost") as connection,
    ):
        return connection.getpeercert(binary_form=True)


def test_an_https_visitor_of_an_http_tunnel_is_served_by_the_nodes_own_authority(
    publish: Publish, site: Site, tmp_path: Path
) -> None:
    (tmp_path / "index.html").write_text("over TLS", encoding="utf-8")
    publish("static", str(tmp_path), "--subdomain", "encrypted")
    there = ("--cacert", str(site.home / "ca.pem"), "--resolve", f"encrypted.localhost:{site.port}:127.0.0.1")
    assert curl(*there, f"https://encrypted.localhost:{site.port}/").stdout == "over TLS"
