from pathlib import Path

from testbed import PEERS

INSTALLER = Path(__file__).parents[2] / "scripts" / "install-peers"


def test_the_installer_installs_every_peer_that_tests_ask_for() -> None:
    listed = INSTALLER.read_text().partition("PACKAGES=(")[2].partition(")")[0].split()
    assert listed == sorted(set(listed))
    assert {peer.package for peer in PEERS.values()} <= set(listed)
