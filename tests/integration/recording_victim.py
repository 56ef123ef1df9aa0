"""Records visits until it is killed, and says every 0.1 s how many were closed a second ago."""

import asyncio
import sys
from collections import deque
from pathlib import Path

from moongate.audit.connections import Connections
from moongate.audit.history import History
from moongate.storage.database import Database, sqlite_url

TICKS_A_SECOND = 10


async def main() -> None:
    db = await Database.open(sqlite_url(Path(sys.argv[1])))
    connections = Connections(db, "node")
    await connections.start()
    await History(db, "node").opened("tunnel", "http", "a.tunnel.test", "session", None)
    connections.open("TCP", tunnel_id="live", tunnel_name="20001", identity="admin", remote_address="[::1]:1")
    closed = 0
    earlier = deque([0] * TICKS_A_SECOND, maxlen=TICKS_A_SECOND)
    while True:
        for _ in range(20):
            record = connections.open(
                "TCP", tunnel_id="tunnel", tunnel_name="20000", identity="admin", remote_address="[::1]:1"
            )
            connections.close(record, "visitor closed")
            closed += 1
        print(earlier[0], flush=True)
        earlier.append(closed)
        await asyncio.sleep(1 / TICKS_A_SECOND)


asyncio.run(main())
