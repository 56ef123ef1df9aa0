"""Fuzz one target with atheris until something is found: `cd tests && python -m fuzz frames -max_total_time=60`.

atheris is not among the locked dependencies, for it has no builds for every Python:
`uv pip install atheris` first. Options after the name are libFuzzer's.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["moongate", "h11"]):
    from fuzz.targets import TARGETS


def main() -> None:
    names = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    if len(names) != 1 or names[0] not in TARGETS:
        sys.exit(f"usage: python -m fuzz {'|'.join(TARGETS)} [libFuzzer options]")
    target = TARGETS[names[0]]
    with tempfile.TemporaryDirectory(prefix="moongate-fuzz-") as corpus:
        for number, seed in enumerate(target.seeds):
            (Path(corpus) / f"seed-{number}").write_bytes(seed)
        options = [argument for argument in sys.argv[1:] if argument.startswith("-")]
        atheris.Setup([sys.argv[0], corpus, *options], target.run)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
