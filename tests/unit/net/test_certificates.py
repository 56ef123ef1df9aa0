import ssl
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509

from moongate.errors import ConfigurationError
from moongate.net import certificates as module
from moongate.net.certificates import Certificates
from testbed.pem import write_pair


def names_shown(context: ssl.SSLContext, asked: str | None = None) -> set[str]:
    """Return the names of the certificate that these TLS settings show, by a handshake in memory."""
    leaf = x509.load_der_x509_certificate(shake_hands(context, asked))
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))}


def shake_hands(
    server: ssl.SSLContext, asked: str | None = None, *, trust: str | None = None, strict: bool = False
) -> bytes:
    """Shake hands without any socket and return the server's certificate (DER); it is verified when `trust` is given."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if trust is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_verify_locations(cadata=trust)
    if strict:
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = context.wrap_bio(to_client, to_server, server_hostname=asked)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    waiting = [ours, theirs]
    for _ in range(10):
        for side in list(waiting):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(side)
        if not waiting:
            break
    assert not waiting
    shown = ours.getpeercert(binary_form=True)
    assert shown is not None
    return shown


def test_the_authority_is_made_once_and_then_loaded(home: Path) -> None:
    first = Certificates(home, "localhost")
    second = Certificates(home, "localhost")
    assert first.ca_pem == second.ca_pem == (home / "ca.pem").read_bytes()
    assert first.fingerprint == second.fingerprint
    assert len(first.fingerprint) == 64


def test_only_the_owner_reads_the_authoritys_key(home: Path) -> None:
    Certificates(home, "localhost")
    assert stat.S_IMODE((home / "ca.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((home / "ca.pem").stat().st_mode) == 0o644


def test_a_missing_state_directory_is_made_for_the_owner_alone(tmp_path: Path) -> None:
    home = tmp_path / "state" / "moongate"
    Certificates(home, "localhost")
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_nothing_but_the_authority_is_left_in_the_state_directory(home: Path) -> None:
    certificates = Certificates(home, "localhost")
    certificates.context_for("a.localhost")
    assert sorted(path.name for path in home.iterdir()) == ["ca.key", "ca.pem"]


def test_processes_that_start_together_agree_on_one_authority(home: Path) -> None:
    program = (
        "import sys, pathlib; from moongate.net.certificates import Certificates\n"
        "print(Certificates(pathlib.Path(sys.argv[1]), 'localhost').fingerprint)"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", program, str(home)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    answers = {process.communicate(timeout=60)[0] for process in running}
    assert len(answers) == 1
    assert len(answers.pop().strip()) == 64


def test_a_public_name_gets_a_leaf_of_its_own_that_passes_strict_verification(home: Path) -> None:
    certificates = Certificates(home, "localhost")
    context = certificates.context_for("a.localhost")
    shake_hands(context, "a.localhost", trust=certificates.ca_pem.decode(), strict=True)
    assert names_shown(context) == {"a.localhost"}


def test_the_leaf_is_not_accepted_for_another_name(home: Path) -> None:
    certificates = Certificates(home, "localhost")
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        shake_hands(certificates.context_for("a.localhost"), "b.localhost", trust=certificates.ca_pem.decode())


def test_another_nodes_authority_is_not_accepted(home: Path, tmp_path: Path) -> None:
    other = Certificates(tmp_path / "other", "localhost")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(
            Certificates(home, "localhost").context_for("a.localhost"), "a.localhost", trust=other.ca_pem.decode()
        )


def test_names_and_addresses_of_the_node_share_one_certificate(home: Path) -> None:
    certificates = Certificates(home, "example.com", ["node.example.com", "192.0.2.7"])
    context = certificates.context_for(None)
    assert context is certificates.context_for("node.example.com")
    assert context is certificates.context_for("example.com.")
    assert context is certificates.context_for(None, local_address="127.0.0.1")
    assert names_shown(context) == {
        "example.com",
        "*.example.com",
        "node.example.com",
        "192.0.2.7",
        "localhost",
        "127.0.0.1",
        "::1",
    }


def test_who_dials_an_address_sees_a_certificate_with_that_address(home: Path) -> None:
    certificates = Certificates(home, "example.com")
    context = certificates.context_for(None, local_address="198.51.100.9")
    assert "198.51.100.9" in names_shown(context)
    assert "fe80::1" in names_shown(certificates.context_for(None, local_address="fe80::1%eth0"))


@pytest.mark.parametrize(
    "name", ["elsewhere.com", "a.b.localhost", ".localhost", "a" * 300 + ".localhost", "ä.localhost", "a b.localhost"]
)
def test_a_stranger_of_a_name_gets_the_default_certificate(home: Path, name: str) -> None:
    certificates = Certificates(home, "localhost")
    assert certificates.context_for(name) is certificates.context_for(None)


def test_the_caller_says_which_names_get_a_leaf(home: Path) -> None:
    certificates = Certificates(home, "localhost", issuable=lambda name: name == "www.elsewhere.com")
    assert names_shown(certificates.context_for("www.elsewhere.com")) == {"www.elsewhere.com"}
    assert certificates.context_for("a.localhost") is certificates.context_for(None)


def test_a_leaf_is_issued_once_while_it_is_fresh(home: Path) -> None:
    certificates = Certificates(home, "localhost")
    assert certificates.context_for("a.localhost") is certificates.context_for("a.localhost")


def test_a_leaf_is_issued_again_before_it_expires_and_when_the_clock_jumps_back(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificates = Certificates(home, "localhost")
    now = 2_000_000_000.0
    monkeypatch.setattr("moongate.net.certificates.time.time", lambda: now)
    first = certificates.context_for("a.localhost")
    now += 29 * 86400
    assert certificates.context_for("a.localhost") is first
    now += 2 * 86400
    second = certificates.context_for("a.localhost")
    assert second is not first
    now -= 365 * 86400
    assert certificates.context_for("a.localhost") is not second


def test_the_number_of_kept_names_is_bounded(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONTEXTS_MAX", 3)
    certificates = Certificates(home, "localhost")
    first = certificates.context_for("n0.localhost")
    for n in range(1, 4):
        certificates.context_for(f"n{n}.localhost")
    assert len(certificates._contexts) == 3
    assert certificates.context_for("n0.localhost") is not first


def test_a_very_long_name_gets_a_leaf(home: Path) -> None:
    name = "a" * 63 + ".localhost"
    assert names_shown(Certificates(home, "localhost").context_for(name)) == {name}


def test_a_broken_authority_is_reported_with_the_way_out(home: Path) -> None:
    Certificates(home, "localhost")
    (home / "ca.pem").write_text("not a certificate")
    with pytest.raises(ConfigurationError, match="cannot be read") as failure:
        Certificates(home, "localhost")
    assert "join string" in failure.value.hint


def test_a_certificate_of_another_key_is_reported(home: Path, tmp_path: Path) -> None:
    Certificates(home, "localhost")
    Certificates(tmp_path / "other", "localhost")
    (home / "ca.pem").write_bytes((tmp_path / "other" / "ca.pem").read_bytes())
    with pytest.raises(ConfigurationError, match="does not belong"):
        Certificates(home, "localhost")


def test_given_files_are_shown_to_everybody_whom_they_serve(home: Path, tmp_path: Path) -> None:
    given = write_pair(tmp_path / "given", "example.com", "*.example.com")
    certificates = Certificates(home, "example.com", given=given)
    shown = {"example.com", "*.example.com"}
    assert names_shown(certificates.context_for(None)) == shown
    assert names_shown(certificates.context_for("a.example.com")) == shown
    assert names_shown(certificates.context_for("stranger.org")) == shown


def test_agents_that_pin_our_authority_see_it_beside_given_files(home: Path, tmp_path: Path) -> None:
    given = write_pair(tmp_path / "given", "example.com", "*.example.com")
    certificates = Certificates(home, "example.com", given=given)
    context = certificates.context_for("example.com", own=True)
    shake_hands(context, "example.com", trust=certificates.ca_pem.decode(), strict=True)


def test_a_key_in_the_same_file_needs_no_second_path(home: Path, tmp_path: Path) -> None:
    certificate, key = write_pair(tmp_path / "given", "example.com")
    certificate.write_bytes(key.read_bytes() + certificate.read_bytes())
    certificates = Certificates(home, "localhost", given=(certificate, None))
    assert names_shown(certificates.context_for(None)) == {"example.com"}


def test_given_files_are_loaded_again_when_they_change(home: Path, tmp_path: Path) -> None:
    given = write_pair(tmp_path / "given", "old.example.com")
    certificates = Certificates(home, "localhost", given=given)
    write_pair(tmp_path / "given", "new.example.com", "also.example.com")
    certificates.reload()
    assert names_shown(certificates.context_for(None)) == {"new.example.com", "also.example.com"}


def test_a_broken_pair_keeps_the_old_one_until_it_is_whole_again(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    certificate, key = write_pair(tmp_path / "given", "old.example.com")
    certificates = Certificates(home, "localhost", given=(certificate, key))
    write_pair(tmp_path / "new", "new.example.com", "also.example.com")
    certificate.write_bytes((tmp_path / "new" / "cert.pem").read_bytes())
    certificates.reload()
    certificates.reload()
    assert names_shown(certificates.context_for(None)) == {"old.example.com"}
    assert capsys.readouterr().out.count("the old one stays") == 1
    key.write_bytes((tmp_path / "new" / "key.pem").read_bytes())
    certificates.reload()
    assert names_shown(certificates.context_for(None)) == {"new.example.com", "also.example.com"}


def test_given_files_that_vanish_keep_the_old_pair(home: Path, tmp_path: Path) -> None:
    certificate, key = write_pair(tmp_path / "given", "old.example.com")
    certificates = Certificates(home, "localhost", given=(certificate, key))
    certificate.unlink()
    certificates.reload()
    assert names_shown(certificates.context_for(None)) == {"old.example.com"}


def test_an_absent_given_file_is_named(home: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cert\.pem.*No such file"):
        Certificates(home, "localhost", given=(tmp_path / "cert.pem", tmp_path / "key.pem"))


def test_given_files_that_do_not_belong_together_are_refused(home: Path, tmp_path: Path) -> None:
    certificate, _ = write_pair(tmp_path / "one", "a.example.com")
    _, key = write_pair(tmp_path / "two", "a.example.com")
    with pytest.raises(ConfigurationError, match="are not a certificate and its key"):
        Certificates(home, "localhost", given=(certificate, key))


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_passphrase(home: Path, tmp_path: Path) -> None:
    given = write_pair(tmp_path / "given", "a.example.com", passphrase=b"secret")
    with pytest.raises(ConfigurationError, match="is encrypted"):
        Certificates(home, "localhost", given=given)


class TestPairs:
    """Certificates that are set for single names while the node runs."""

    @staticmethod
    def pair(folder: Path, *names: str) -> tuple[bytes, bytes]:
        chain, key = write_pair(folder, *names)
        return chain.read_bytes(), key.read_bytes()

    def test_a_name_shows_its_own_certificate_and_its_neighbours_do_not(self, home: Path, tmp_path: Path) -> None:
        certificates = Certificates(home, "localhost")
        chain, key = self.pair(tmp_path / "own", "shop.example.test", "www.shop.example.test")
        ends_at = certificates.set_pair("shop.example.test", chain, key)
        assert ends_at == x509.load_pem_x509_certificate(chain).not_valid_after_utc.timestamp()
        assert names_shown(certificates.context_for("shop.example.test")) == {
            "shop.example.test",
            "www.shop.example.test",
        }
        assert names_shown(certificates.context_for("app.localhost")) == {"app.localhost"}
        assert "www.shop.example.test" not in names_shown(certificates.context_for("www.shop.example.test"))

    def test_taken_away_the_name_shows_what_it_showed_before(self, home: Path, tmp_path: Path) -> None:
        certificates = Certificates(home, "localhost")
        certificates.set_pair("app.localhost", *self.pair(tmp_path / "own", "app.localhost", "own.test"))
        certificates.drop_pair("app.localhost")
        certificates.drop_pair("app.localhost")
        assert names_shown(certificates.context_for("app.localhost")) == {"app.localhost"}

    def test_an_agents_own_goes_before_one_of_a_public_authority_and_that_before_given_files(
        self, home: Path, tmp_path: Path
    ) -> None:
        certificates = Certificates(home, "gate.test", given=write_pair(tmp_path / "given", "*.gate.test"))
        name = "app.gate.test"
        certificates.set_pair(name, *self.pair(tmp_path / "acme", name, "acme.test"), source="acme")
        certificates.set_pair(name, *self.pair(tmp_path / "own", name, "own.test"))
        assert "own.test" in names_shown(certificates.context_for(name))
        certificates.drop_pair(name)
        assert "acme.test" in names_shown(certificates.context_for(name))
        certificates.drop_pair(name, source="acme")
        assert names_shown(certificates.context_for(name)) == {"*.gate.test"}

    def test_agents_that_pin_our_authority_see_it_all_the_same(self, home: Path, tmp_path: Path) -> None:
        certificates = Certificates(home, "gate.test")
        certificates.set_pair("gate.test", *self.pair(tmp_path / "own", "gate.test"), source="acme")
        shown = shake_hands(certificates.context_for("gate.test", own=True), "gate.test", trust=pem(certificates))
        assert shown

    def test_a_wildcard_is_good_for_a_name_under_it(self, home: Path, tmp_path: Path) -> None:
        certificates = Certificates(home, "localhost")
        certificates.set_pair("shop.example.test", *self.pair(tmp_path / "own", "*.example.test"))
        assert names_shown(certificates.context_for("shop.example.test")) == {"*.example.test"}

    def test_what_cannot_be_used_is_refused_by_name_and_the_old_one_stays(self, home: Path, tmp_path: Path) -> None:
        certificates = Certificates(home, "localhost")
        name = "shop.example.test"
        chain, key = self.pair(tmp_path / "own", name)
        other_chain, other_key = self.pair(tmp_path / "other", "other.example.test")
        certificates.set_pair(name, chain, key)
        for bad_chain, bad_key, why in [
            (chain, other_key, f"certificate and key of {name} do not belong together"),
            (b"no certificate", key, f"the certificate of {name} cannot be read"),
            (chain, b"no key", f"certificate and key of {name}"),
            (chain, b"", f"certificate and key of {name}"),
            (other_chain, other_key, f"the certificate is for other.example.test, not for {name}"),
            (chain * 200, key, "have more than"),
        ]:
            with pytest.raises(ConfigurationError, match=why):
                certificates.set_pair(name, bad_chain, bad_key)
        assert names_shown(certificates.context_for(name)) == {name}
        assert {path.name for path in home.iterdir()} == {"ca.key", "ca.pem"}

    def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_passphrase(
        self, home: Path, tmp_path: Path
    ) -> None:
        chain, key = write_pair(tmp_path / "own", "shop.example.test", passphrase=b"secret")
        with pytest.raises(ConfigurationError, match=r"the key of shop\.example\.test is encrypted"):
            Certificates(home, "localhost").set_pair("shop.example.test", chain.read_bytes(), key.read_bytes())


def pem(certificates: Certificates) -> str:
    return certificates.ca_pem.decode()
