"""`moongate agent install|uninstall|status`: an agent that the machine's own service manager keeps running."""

import sys
from pathlib import Path
from typing import Protocol

from moongate.cli.outcome import Exit, UsageError
from moongate.cli.service_steps import ServiceState
from moongate.cli.text import neutralise, print_json


class ServiceManager(Protocol):
    """systemd or launchd, for the machine or for one user."""

    @property
    def definition(self) -> Path:
        """Where the service is defined."""
        ...

    @property
    def join_file(self) -> Path:
        """Where the join string is kept for it."""
        ...

    @property
    def home(self) -> Path:
        """Where its state is."""
        ...

    def text(self, api_port: int) -> str:
        """Return the definition."""
        ...

    def install(self, join: str, api_port: int) -> str:
        """Write the definition and the join string, have the agent started now and at every boot; say how it went."""
        ...

    def uninstall(self) -> None:
        """End the agent and take its definition and join string away; what it publishes stays known."""
        ...

    def state(self) -> ServiceState:
        """Return how the service is doing."""
        ...


def manager_for(*, user: bool, root: Path | None = None, platform: str = sys.platform) -> ServiceManager:
    """Return the service manager of this machine.

    Raises:
        UsageError: If it has none that we know, or the flags contradict each other.
    """
    if root is not None and (user or not platform.startswith("linux")):
        raise UsageError("--root is for systemd's services of a whole system", hint="leave out --user or --root")
    if platform.startswith("linux"):
        from moongate.cli.systemd_service import Systemd

        return Systemd(user=user, root=root)
    if platform == "darwin":
        from moongate.cli.launchd_service import Launchd

        return Launchd(user=user)
    raise UsageError(
        f"services of {platform} are not built in", hint="let its own service manager run `moongate agent start`"
    )


def install(manager: ServiceManager, server: str | None, token_file: Path | None, api_port: int) -> Exit:
    """Make an agent a service, and say where its parts are."""
    said = manager.install(_join_string(server, token_file, manager.join_file), api_port)
    print(f"service      {manager.definition}")
    print(f"join string  {manager.join_file}")
    print(f"state        {manager.home}")
    print(f"local API    http://127.0.0.1:{api_port}")
    print(said)
    return Exit.OK


def dry_run(manager: ServiceManager, api_port: int) -> Exit:
    """Print the definition alone, so that it can be piped; where it would go is said beside it."""
    print(f"would be {manager.definition}, with the join string in {manager.join_file}", file=sys.stderr)
    print(manager.text(api_port), end="")
    return Exit.OK


def uninstall(manager: ServiceManager) -> Exit:
    """Take the service away, and say what is left."""
    if not manager.definition.is_file():
        print(f"there is no service: {manager.definition} does not exist")
        return Exit.OK
    manager.uninstall()
    print(f"removed {manager.definition} and the join string")
    print(f"kept    {manager.home}, with the rules of the agent")
    return Exit.OK


def show_state(manager: ServiceManager, *, as_json: bool) -> Exit:
    """Print how the service is doing; the exit code is 0 only while it runs."""
    state = manager.state()
    if as_json:
        print_json(state.members())
    else:
        for line in _lines(state):
            print(neutralise(line))
    return Exit.OK if state.running else Exit.FAILED


def _lines(state: ServiceState) -> list[str]:
    if not state.installed:
        return ["not installed", f"`moongate agent install` would make {state.definition}"]
    at_boot = "starts at boot" if state.enabled else "does not start at boot"
    facts = [state.state, at_boot]
    if state.pid is not None:
        facts.append(f"process {state.pid}")
    if state.restarts:
        facts.append(f"{state.restarts} restarts")
    detail = [state.detail] if state.detail else []
    return [", ".join(facts), *detail, str(state.definition)]


def _join_string(server: str | None, token_file: Path | None, installed: Path) -> str:
    """Return one line that holds all that the agent needs to know about its node; what is installed, if nothing is said."""
    from moongate.cli.places import node_address, read_secret
    from moongate.net.addresses import make_join

    if server is None and token_file is None and installed.is_file():
        return read_secret(installed)
    address = node_address(server, token_file)
    if not address.tls:
        raise UsageError("a service needs a join string, which http:// has none of", hint="print one: `moongate join`")
    return make_join(address.host, address.port, address.token or "", address.fingerprint)
