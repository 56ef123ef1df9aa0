"""Keeping things: the database, its schema and its migrations."""
