"""Moongate: one self-hosted gateway that publishes, reaches, records and watches."""

__version__ = "2026.11.0"
