"""The migrations as files."""

from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory

import moongate.storage.migrating
from moongate.storage.migrating import HEAD


def test_the_known_head_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(moongate.storage.migrating.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]
