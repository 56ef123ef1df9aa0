"""Run by Alembic on the connection that `moongate.storage.migrating` hands over."""

from alembic import context

from moongate.storage.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
# The transaction is the caller's: several processes may start together, and all of it happens or nothing.
context.run_migrations()
