"""Bytes to meaning and back: every protocol here is pure, and does no I/O of its own."""
