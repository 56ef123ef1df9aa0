"""The tables. Times are whole microseconds since 1970 UTC (see `times`); ids are UUIDs as text."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_Id = String(36)
# SQLite counts rows by itself only in a column declared INTEGER.
_Sequence = BigInteger().with_variant(Integer, "sqlite")

tokens = Table(
    "tokens",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("token_hash", String(64), nullable=False, unique=True),
    Column("label", String(128), nullable=False),
    Column("scope", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("last_used_at", BigInteger),
    Column("expires_at", BigInteger),
)

# `token_id` empties when its token is deleted; `identity` still tells a deleted token's tunnel from the admin's.
tunnel_log = Table(
    "tunnel_log",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("tunnel_id", _Id, nullable=False, index=True),
    Column("node_id", _Id, nullable=False),
    Column("protocol", String(8), nullable=False),
    Column("label", String(255), nullable=False),
    Column("session_id", _Id, nullable=False),
    Column("identity", _Id, nullable=False),
    Column("token_id", _Id, ForeignKey("tokens.id", ondelete="SET NULL"), index=True),
    Column("registered_at", BigInteger, nullable=False, index=True),
    Column("unregistered_at", BigInteger),
)

# What a deleted token kept goes with it; without a token it is the administrator's.
kept_names = Table(
    "kept_names",
    metadata,
    Column("node_id", _Id, primary_key=True),
    Column("kind", String(8), primary_key=True),
    Column("name", String(255), primary_key=True),
    Column("tunnel_id", _Id, nullable=False),
    Column("token_id", _Id, ForeignKey("tokens.id", ondelete="CASCADE"), index=True),
    Column("kept_at", BigInteger, nullable=False),
)

# `sequence` is the order of arrival, which clocks cannot be trusted with.
captured_requests = Table(
    "captured_requests",
    metadata,
    Column("sequence", _Sequence, primary_key=True, autoincrement=True),
    Column("id", _Id, nullable=False, unique=True),
    Column("tunnel_id", _Id, nullable=False),
    Column("conn_id", _Id, nullable=False),
    Column("method", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("status", Integer, nullable=False),
    Column("request_bytes", BigInteger, nullable=False),
    Column("response_bytes", BigInteger, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("ttfb_us", BigInteger, nullable=False),
    Column("duration_us", BigInteger, nullable=False),
    Column("request_head", LargeBinary, nullable=False),
    Column("response_head", LargeBinary, nullable=False),
    Column("request_body", LargeBinary),
    Column("response_body", LargeBinary),
    Column("request_truncated", Boolean, nullable=False),
    Column("response_truncated", Boolean, nullable=False),
    Column("sealed", LargeBinary),
    Index(None, "tunnel_id", "sequence"),
)

connections = Table(
    "connections",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("node_id", _Id, nullable=False),
    Column("type", String(16), nullable=False),
    Column("status", String(24), nullable=False),
    Column("tunnel_id", _Id, nullable=False),
    Column("tunnel_name", String(255), nullable=False),
    Column("identity", _Id, nullable=False),
    Column("remote_address", Text, nullable=False),
    Column("target_address", Text, nullable=False),
    Column("user_agent", Text, nullable=False),
    Column("connected", BigInteger, nullable=False),
    Column("disconnected", BigInteger),
    Column("last_activity", BigInteger, nullable=False),
    # From a steady clock: a wall clock that jumps must not make a connection last a year, or less than nothing.
    Column("duration_us", BigInteger, nullable=False),
    Column("bytes_in", BigInteger, nullable=False),
    Column("bytes_out", BigInteger, nullable=False),
    Column("requests", BigInteger, nullable=False),
    Column("end_reason", Text, nullable=False),
    Column("updated", BigInteger, nullable=False),
    Index(None, "connected"),
    Index(None, "tunnel_id", "connected"),
)
# Few rows are live; starting a node looks for just these.
Index(
    "ix_connections_live",
    connections.c.node_id,
    sqlite_where=connections.c.disconnected.is_(None),
    postgresql_where=connections.c.disconnected.is_(None),
)
