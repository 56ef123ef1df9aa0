import sys

import pytest

from moongate.api.agent.peers import _entry, find_uid

TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1004 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0000000000000000 100 0 0 10 0
   1: 0100007F:1004 0100007F:C350 01 00000000:00000000 00:00000000 00000000  1000        0 4712 1 0000000000000000 20 0 0 10 -1
   2: 0100007F:C350 0100007F:1004 01 00000000:00000000 00:00000000 00000000    33        0 4713 1 0000000000000000 20 0 0 10 -1
"""


def test_the_user_at_the_other_end_is_found_and_not_the_one_at_ours() -> None:
    assert find_uid(TABLE, "0100007F:C350", "0100007F:1004") == 33
    assert find_uid(TABLE, "0100007F:1004", "0100007F:C350") == 1000


@pytest.mark.parametrize("table", ["", "\n", "  sl  local_address\n", TABLE.replace("C350", "C351")])
def test_a_table_without_the_connection_tells_nothing(table: str) -> None:
    assert find_uid(table, "0100007F:C350", "0100007F:1004") is None


@pytest.mark.skipif(sys.byteorder != "little", reason="the order of the machine's bytes")
@pytest.mark.parametrize(
    ("address", "family", "entry"),
    [
        ("127.0.0.1", 4, "0100007F:1004"),
        ("::1", 6, "00000000000000000000000001000000:1004"),
        ("127.0.0.1", 6, "0000000000000000FFFF00000100007F:1004"),
    ],
)
def test_addresses_are_written_as_the_system_writes_them(address: str, family: int, entry: str) -> None:
    assert _entry((address, 4100), family) == entry
