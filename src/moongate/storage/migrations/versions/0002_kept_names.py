"""Names and ports that are kept for their owners until they are released."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ID = sa.String(36)


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "kept_names",
        sa.Column("node_id", _ID, nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("tunnel_id", _ID, nullable=False),
        sa.Column("token_id", _ID),
        sa.Column("kept_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("node_id", "kind", "name", name="pk_kept_names"),
        sa.ForeignKeyConstraint(["token_id"], ["tokens.id"], name="fk_kept_names_token_id_tokens", ondelete="CASCADE"),
    )
    op.create_index("ix_kept_names_token_id", "kept_names", ["token_id"])


def downgrade() -> None:
    """Drop it."""
    op.drop_table("kept_names")
