"""The first tables: tokens, the log of tunnels, captured requests, connection records."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ID = sa.String(36)
_SEQUENCE = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make the tables."""
    _make_tokens()
    _make_tunnel_log()
    _make_captured_requests()
    _make_connections()


def downgrade() -> None:
    """Drop them."""
    for table in ("connections", "captured_requests", "tunnel_log", "tokens"):
        op.drop_table(table)


def _make_tokens() -> None:
    op.create_table(
        "tokens",
        sa.Column("id", _ID, nullable=False),
        sa.Column("token_hash", sa.String(64), nullable=False),
        sa.Column("label", sa.String(128), nullable=False),
        sa.Column("scope", sa.Text),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("last_used_at", sa.BigInteger),
        sa.Column("expires_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
        sa.UniqueConstraint("token_hash", name="uq_tokens_token_hash"),
    )


def _make_tunnel_log() -> None:
    op.create_table(
        "tunnel_log",
        sa.Column("id", _ID, nullable=False),
        sa.Column("tunnel_id", _ID, nullable=False),
        sa.Column("node_id", _ID, nullable=False),
        sa.Column("protocol", sa.String(8), nullable=False),
        sa.Column("label", sa.String(255), nullable=False),
        sa.Column("session_id", _ID, nullable=False),
        sa.Column("identity", _ID, nullable=False),
        sa.Column("token_id", _ID),
        sa.Column("registered_at", sa.BigInteger, nullable=False),
        sa.Column("unregistered_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_tunnel_log"),
        sa.ForeignKeyConstraint(["token_id"], ["tokens.id"], name="fk_tunnel_log_token_id_tokens", ondelete="SET NULL"),
    )
    for column in ("tunnel_id", "token_id", "registered_at"):
        op.create_index(f"ix_tunnel_log_{column}", "tunnel_log", [column])


def _make_captured_requests() -> None:
    op.create_table(
        "captured_requests",
        sa.Column("sequence", _SEQUENCE, nullable=False, autoincrement=True),
        sa.Column("id", _ID, nullable=False),
        sa.Column("tunnel_id", _ID, nullable=False),
        sa.Column("conn_id", _ID, nullable=False),
        sa.Column("method", sa.Text, nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("request_bytes", sa.BigInteger, nullable=False),
        sa.Column("response_bytes", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("ttfb_us", sa.BigInteger, nullable=False),
        sa.Column("duration_us", sa.BigInteger, nullable=False),
        sa.Column("request_head", sa.LargeBinary, nullable=False),
        sa.Column("response_head", sa.LargeBinary, nullable=False),
        sa.Column("request_body", sa.LargeBinary),
        sa.Column("response_body", sa.LargeBinary),
        sa.Column("request_truncated", sa.Boolean, nullable=False),
        sa.Column("response_truncated", sa.Boolean, nullable=False),
        sa.Column("sealed", sa.LargeBinary),
        sa.PrimaryKeyConstraint("sequence", name="pk_captured_requests"),
        sa.UniqueConstraint("id", name="uq_captured_requests_id"),
    )
    op.create_index("ix_captured_requests_tunnel_id_sequence", "captured_requests", ["tunnel_id", "sequence"])


def _make_connections() -> None:
    op.create_table(
        "connections",
        sa.Column("id", _ID, nullable=False),
        sa.Column("node_id", _ID, nullable=False),
        sa.Column("type", sa.String(16), nullable=False),
        sa.Column("status", sa.String(24), nullable=False),
        sa.Column("tunnel_id", _ID, nullable=False),
        sa.Column("tunnel_name", sa.String(255), nullable=False),
        sa.Column("identity", _ID, nullable=False),
        sa.Column("remote_address", sa.Text, nullable=False),
        sa.Column("target_address", sa.Text, nullable=False),
        sa.Column("user_agent", sa.Text, nullable=False),
        sa.Column("connected", sa.BigInteger, nullable=False),
        sa.Column("disconnected", sa.BigInteger),
        sa.Column("last_activity", sa.BigInteger, nullable=False),
        sa.Column("duration_us", sa.BigInteger, nullable=False),
        sa.Column("bytes_in", sa.BigInteger, nullable=False),
        sa.Column("bytes_out", sa.BigInteger, nullable=False),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sa.Column("end_reason", sa.Text, nullable=False),
        sa.Column("updated", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_connections"),
    )
    op.create_index("ix_connections_connected", "connections", ["connected"])
    op.create_index("ix_connections_tunnel_id_connected", "connections", ["tunnel_id", "connected"])
    live = sa.text("disconnected IS NULL")
    op.create_index("ix_connections_live", "connections", ["node_id"], sqlite_where=live, postgresql_where=live)
