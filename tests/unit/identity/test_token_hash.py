"""How tokens are kept."""

from moongate.identity.tokens import token_hash


def test_a_token_is_kept_as_the_sha256_of_its_text() -> None:
    kept = "f011f998602626401854618a2a3d12d105e30b9febee20daecf6f25b860c17cd"
    assert token_hash("3f0c2a9e-5d41-4b7c-9a10-6e2f8b7d1c55") == kept
