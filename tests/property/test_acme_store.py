"""Whatever is found in ACME's files after a crash, the node starts: it uses the file or puts it aside."""

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from moongate.net.acme.store import ACCOUNT_FILE, AcmeStore, Pair
from testbed.pem import write_pair

NAME = "shop.example.test"


def _made() -> tuple[bytes, bytes]:
    """A good account and a good certificate, as they are on disk."""
    with tempfile.TemporaryDirectory() as folder:
        store = AcmeStore(Path(folder), "https://acme.example.test/directory")
        certificate, key = write_pair(Path(folder) / "made", NAME)
        store.save(NAME, Pair.of(certificate.read_bytes(), key.read_bytes()))
        store.load_account()
        return (store.folder / ACCOUNT_FILE).read_bytes(), (store.folder / f"{NAME}.pem").read_bytes()


ACCOUNT, PAIR = _made()


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """The file with a piece replaced by anything."""
    begin = draw(st.integers(0, len(whole)))
    end = draw(st.integers(begin, len(whole)))
    return whole[:begin] + draw(st.binary(max_size=40)) + whole[end:]


@given(st.one_of(st.binary(max_size=400), damaged(ACCOUNT)), st.one_of(st.binary(max_size=400), damaged(PAIR)))
def test_files_are_used_or_put_aside(account: bytes, pair: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = AcmeStore(Path(folder), "https://acme.example.test/directory")
        files = {ACCOUNT_FILE: account, f"{NAME}.pem": pair}
        for name, data in files.items():
            (store.folder / name).write_bytes(data)
        found, loaded = store.load_account(), store.load(NAME)
        assert store.load_account() == found or store.load_account().uri == found.uri
        aside = {path.name.partition(".corrupt-")[0]: path.read_bytes() for path in store.folder.glob("*.corrupt-*")}
        assert (loaded is None) == (f"{NAME}.pem" in aside)
        assert all(files[name] == data for name, data in aside.items())
        store.remove_expired(0)
