"""Certificates from a public authority by ACME (RFC 8555): the names that want one get it, and keep a valid one.

`keeping` decides when and remembers how it went, `client` speaks to the authority, `proofs` is what the authority is
shown, `store` what survives a restart.
"""
