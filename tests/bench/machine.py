"""What the figures were measured on: the machine and the versions of everything that took part."""

import os
import platform
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

LIBRARIES = ("uvloop", "httptools", "cryptography", "uvicorn", "sqlalchemy")


def describe_machine() -> dict[str, str]:
    """Processor, memory, kernel and operating system, as far as the machine tells."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _field(Path("/proc/cpuinfo"), r"model name\s*:\s*(.+)") or platform.processor() or "unknown",
        "cores": str(os.cpu_count()),
        "memory": f"{memory / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "system": _field(Path("/etc/os-release"), r'PRETTY_NAME="([^"]+)"') or platform.platform(),
        "descriptors": str(os.sysconf("SC_OPEN_MAX")),
    }


def describe_versions() -> dict[str, str]:
    """Versions of Moongate, its libraries that matter for speed, and every peer."""
    whose = "the distribution's" if sys.base_prefix == "/usr" else "not the distribution's"
    found = {"Moongate": _distribution("moongate"), "Python": f"{sys.version.split()[0]} ({whose})"}
    found |= {name: _distribution(name) for name in LIBRARIES}
    found["nginx"] = _said(["nginx", "-v"], r"nginx/(\S+)")
    found["HAProxy"] = _said(["haproxy", "-v"], r"version (\S+)")
    found["OpenSSH"] = _said(["ssh", "-V"], r"(OpenSSH_[^,]+)")
    found["wrk"] = _said(["wrk", "-v"], r"wrk (\S+)")
    found["OpenSSL"] = _said(["openssl", "version"], r"OpenSSL (\S+)")
    return found


def _field(path: Path, pattern: str) -> str:
    match = re.search(pattern, path.read_text(errors="replace")) if path.exists() else None
    return match.group(1).strip() if match else ""


def _distribution(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"


def _said(argv: list[str], pattern: str) -> str:
    program = shutil.which(argv[0], path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if program is None:
        return "absent"
    answer = subprocess.run([program, *argv[1:]], capture_output=True, text=True, timeout=10, check=False)
    match = re.search(pattern, answer.stdout + answer.stderr)
    return match.group(1) if match else "unknown"
