"""The peers that do the same job: an nginx pair, an HAProxy pair, `ssh -R`; and the origin all of them serve."""

import datetime
import getpass
import ipaddress
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from string import Template

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bench.peers import program
from bench.processes import Processes, Running, free_port, wait_for_port, wait_until

ANSWER = ("moongate benchmark " * 54)[: 1024 - 18] + "end of the answer\n"
# The user directive only means something to root; without it root's worker would be `nobody`.
AS_ROOT = "user root;\n" if os.geteuid() == 0 else ""
# nginx closes a connection after 1 000 requests by default, which would not be keep-alive at these rates.
KEEPALIVE_REQUESTS = 100_000_000

NGINX_HEAD = Template(
    AS_ROOT
    + """worker_processes 1;
daemon off;
pid $folder/nginx.pid;
error_log $folder/error.log warn;
events { worker_connections 8192; }
http {
  client_body_temp_path $folder/body; proxy_temp_path $folder/proxy; fastcgi_temp_path $folder/f;
  uwsgi_temp_path $folder/u; scgi_temp_path $folder/s;
  default_type text/plain;
  keepalive_requests $requests;
"""
)
ORIGIN = Template(
    """  access_log off;
  sendfile on;
  sendfile_max_chunk 256k;
  server {
    listen 127.0.0.1:$port backlog=4096;
    location / { return 200 "$answer"; }
    location /large { root $folder; }
  }
}
"""
)
INNER = Template(
    """  access_log $folder/access.log combined;
  upstream origin { server 127.0.0.1:$origin; keepalive 64; keepalive_requests $requests; }
  server {
    listen 127.0.0.1:$port ssl backlog=4096;
    ssl_certificate $cert; ssl_certificate_key $key;
    ssl_protocols TLSv1.3;
    location / {
      proxy_pass http://origin;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $$host;
      proxy_max_temp_file_size 0;
    }
  }
}
"""
)
FILES = Template(
    """  access_log $folder/access.log combined;
  sendfile on;
  tcp_nopush on;
  server {
    listen 127.0.0.1:$port ssl backlog=4096;
    ssl_certificate $cert; ssl_certificate_key $key;
    ssl_protocols TLSv1.3;
    location / { root $files; }
  }
}
"""
)
EDGE = Template(
    """  access_log $folder/access.log combined;
  upstream inner { server 127.0.0.1:$inner; keepalive 64; keepalive_requests $requests; }
  server {
    listen 127.0.0.1:$port backlog=4096;
    location / {
      proxy_pass https://inner;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $$host;
      proxy_set_header X-Forwarded-For $$remote_addr;
      proxy_set_header X-Forwarded-Proto $$scheme;
      proxy_set_header X-Forwarded-Host $$host;
      proxy_ssl_protocols TLSv1.3;
      proxy_ssl_verify on;
      proxy_ssl_trusted_certificate $cert;
      proxy_ssl_name localhost;
      proxy_max_temp_file_size 0;
    }
  }
}
"""
)
HAPROXY_HEAD = """global
  nbthread 1
  maxconn 8000
  log stdout format raw local0 info
defaults
  mode tcp
  log global
  option tcplog
  timeout connect 10s
  timeout client 1h
  timeout server 1h
"""
HAPROXY_OUTER = Template(
    HAPROXY_HEAD
    + """listen outer
  bind 127.0.0.1:$port backlog 4096
  server inner 127.0.0.1:$inner ssl verify required ca-file $cert sni str(localhost) ssl-min-ver TLSv1.3
"""
)
HAPROXY_INNER = Template(
    HAPROXY_HEAD
    + """listen inner
  bind 127.0.0.1:$port backlog 4096 ssl crt $both ssl-min-ver TLSv1.3
  server upstream 127.0.0.1:$upstream
"""
)
SSHD = Template(
    """Port $port
ListenAddress 127.0.0.1
HostKey $folder/host_key
AuthorizedKeysFile $folder/user_key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
AllowTcpForwarding yes
"""
)


@dataclass(frozen=True, slots=True)
class Reference:
    """A running peer: where visitors reach it, its processes, and the configuration it runs with."""

    port: int
    processes: tuple[Running, ...]
    configurations: dict[str, str]

    def cpu_s(self) -> float:
        return sum(running.cpu_s() for running in self.processes)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A throw-away certificate for localhost that is its own authority."""

    cert: Path
    key: Path
    both: Path


def make_key_pair(folder: Path) -> KeyPair:
    """Write a self-signed P-256 certificate for localhost, as nginx, HAProxy and their clients want it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    today = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_pem = certificate.public_bytes(serialization.Encoding.PEM)
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pair = KeyPair(folder / "cert.pem", folder / "key.pem", folder / "both.pem")
    pair.cert.write_bytes(cert_pem)
    pair.key.write_bytes(key_pem)
    pair.both.write_bytes(cert_pem + key_pem)
    return pair


def start_nginx(processes: Processes, name: str, port: int, body: Template, **values: object) -> tuple[Running, str]:
    """Start one nginx with one worker; return it with its configuration."""
    folder = processes.folder / f"nginx-{name}"
    folder.mkdir(exist_ok=True)
    values |= {"folder": folder, "port": port, "requests": KEEPALIVE_REQUESTS}
    text = NGINX_HEAD.substitute(values) + body.substitute(values)
    (folder / "nginx.conf").write_text(text)
    argv = [program("nginx"), "-e", str(folder / "error.log"), "-p", str(folder), "-c", str(folder / "nginx.conf")]
    running = processes.start(f"nginx-{name}", argv)
    wait_for_port(port, running)
    return running, text


def start_origin(processes: Processes, large_mib: int = 0) -> Reference:
    """The service everybody publishes: nginx answering 1 KiB from memory, or a large sparse file."""
    port = free_port()
    folder = processes.folder / "nginx-origin"
    folder.mkdir(exist_ok=True)
    if large_mib:
        with (folder / "large").open("wb") as large:
            large.truncate(large_mib << 20)
    running, text = start_nginx(processes, "origin", port, ORIGIN, answer=ANSWER)
    return Reference(port, (running,), {"nginx origin": text})


def start_nginx_pair(processes: Processes, keys: KeyPair, origin: int) -> Reference:
    """The reference of HTTP: nginx (edge, plain) → TLS 1.3 → nginx (inner) → origin."""
    inner_port, edge_port = free_port(), free_port()
    inner, inner_text = start_nginx(processes, "inner", inner_port, INNER, origin=origin, cert=keys.cert, key=keys.key)
    edge, edge_text = start_nginx(processes, "edge", edge_port, EDGE, inner=inner_port, cert=keys.cert)
    return Reference(edge_port, (edge, inner), {"nginx edge": edge_text, "nginx inner": inner_text})


def start_files_pair(processes: Processes, keys: KeyPair, files: Path) -> Reference:
    """The reference of a published folder: nginx (edge, plain) → TLS 1.3 → nginx, which serves the files itself."""
    inner_port, edge_port = free_port(), free_port()
    inner, inner_text = start_nginx(processes, "files", inner_port, FILES, files=files, cert=keys.cert, key=keys.key)
    edge, edge_text = start_nginx(processes, "edge", edge_port, EDGE, inner=inner_port, cert=keys.cert)
    return Reference(edge_port, (edge, inner), {"nginx edge": edge_text, "nginx files": inner_text})


def start_haproxy_pair(processes: Processes, keys: KeyPair, upstream: int) -> Reference:
    """The reference of TCP: HAProxy (plain in) → TLS 1.3 → HAProxy (plain out) → upstream."""
    inner_port, outer_port = free_port(), free_port()
    inner_text = HAPROXY_INNER.substitute(port=inner_port, both=keys.both, upstream=upstream)
    outer_text = HAPROXY_OUTER.substitute(port=outer_port, inner=inner_port, cert=keys.cert)
    started = []
    for name, port, text in (("inner", inner_port, inner_text), ("outer", outer_port, outer_text)):
        path = processes.folder / f"haproxy-{name}.cfg"
        path.write_text(text)
        started.append(processes.start(f"haproxy-{name}", [program("haproxy"), "-f", str(path)]))
        wait_for_port(port, started[-1])
    return Reference(outer_port, tuple(started), {"HAProxy outer": outer_text, "HAProxy inner": inner_text})


def start_ssh_remote(processes: Processes, upstream: int) -> Reference:
    """`ssh -R` through a daemon of our own with throw-away keys: one hop, as an agent and a node are."""
    folder = processes.folder / "ssh"
    folder.mkdir(exist_ok=True)
    if os.geteuid() == 0:
        # sshd as root insists on its privilege separation directory.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    for name in ("host_key", "user_key"):
        make = [program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(make, check=True)
    sshd_port, public_port = free_port(), free_port()
    text = SSHD.substitute(port=sshd_port, folder=folder)
    (folder / "sshd_config").write_text(text)
    daemon = processes.start("sshd", [program("sshd"), "-D", "-e", "-f", str(folder / "sshd_config")])
    wait_for_port(sshd_port, daemon)
    argv = [program("ssh"), "-N", "-F", "none", "-i", str(folder / "user_key"), "-p", str(sshd_port)]
    options = ("StrictHostKeyChecking=no", f"UserKnownHostsFile={folder}/known_hosts", "ExitOnForwardFailure=yes")
    argv += [f"-o{option}" for option in (*options, "BatchMode=yes", "IdentitiesOnly=yes")]
    argv += ["-R", f"127.0.0.1:{public_port}:127.0.0.1:{upstream}", f"{getpass.getuser()}@127.0.0.1"]
    client = processes.start("ssh", argv)
    # The daemon's end of the forwarding accepts only once the client is in.
    wait_until(lambda: client.alive and _listens(public_port), "ssh -R forwards", client)
    return Reference(public_port, (daemon, client), {"sshd": text, "ssh": " ".join(argv)})


def _listens(port: int) -> bool:
    wanted = f"0100007F:{port:04X}"
    rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(row.split()[1] == wanted and row.split()[3] == "0A" for row in rows)
