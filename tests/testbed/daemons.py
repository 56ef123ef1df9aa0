"""Real servers of the system with configurations of a test: nginx, sshd."""

import getpass
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from testbed import free_port, require_peer, until

__all__ = ["SshServer", "daemon", "nginx", "ssh_server"]

START_S = 15.0
END_S = 10.0
NGINX = """
{user}
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  default_type text/plain;
  server {{ {server} }}
}}
"""
SSHD = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
"""


@contextmanager
def daemon(command: list[str], folder: Path, port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a server in the foreground until it listens, and end it afterwards."""
    log = folder / "said"
    with log.open("wb") as said:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd=folder)
    try:
        until(lambda: process.poll() is not None or _accepts(port), timeout_s=START_S, what=f"{command[0]} listens")
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@contextmanager
def nginx(folder: Path, server: str) -> Iterator[int]:
    """Run nginx with one `server` block, in which {port} stands for its port."""
    program = require_peer("nginx")
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    # Without it a worker of root's is `nobody`, who may not look into the folder.
    user = "user root;" if os.geteuid() == 0 else ""
    text = NGINX.format(user=user, folder=folder, server=server.replace("{port}", str(port)))
    (folder / "nginx.conf").write_text(text, encoding="utf-8")
    with daemon([program, "-p", str(folder), "-e", f"{folder}/early.log", "-c", f"{folder}/nginx.conf"], folder, port):
        yield port


@dataclass(frozen=True, slots=True)
class SshServer:
    """A running sshd, and what its one user needs to get in."""

    port: int
    folder: Path

    @property
    def options(self) -> list[str]:
        """What ssh, scp and sftp share; nothing of the person who runs the tests is used."""
        host_key = (self.folder / "host_key.pub").read_text(encoding="utf-8")
        known = self.folder / "known_hosts"
        known.write_text(f"tunnel {host_key}", encoding="utf-8")
        own = ("StrictHostKeyChecking=yes", f"UserKnownHostsFile={known}", "HostKeyAlias=tunnel")
        options = (*own, "BatchMode=yes", "IdentitiesOnly=yes", "LogLevel=ERROR")
        return ["-F", "none", "-i", str(self.folder / "user_key"), *(f"-o{option}" for option in options)]

    @property
    def place(self) -> str:
        return f"{getpass.getuser()}@127.0.0.1"


@contextmanager
def ssh_server(folder: Path) -> Iterator[SshServer]:
    """Run sshd for the user of this process, with throw-away keys."""
    program, keygen = require_peer("sshd"), require_peer("ssh-keygen")
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        # sshd as root insists on its privilege separation directory.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    for name in ("host_key", "user_key"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    port = free_port()
    (folder / "sshd_config").write_text(SSHD.format(port=port, folder=folder), encoding="utf-8")
    with daemon([program, "-D", "-e", "-f", str(folder / "sshd_config")], folder, port):
        yield SshServer(port, folder)
