"""A published folder against nginx → TLS → nginx serving the same files: many small ones, and one large one."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.bench import Bench, cpu_used
from bench.figures import Goal, Result, compare, in_turns
from bench.processes import Running, measure
from bench.references import Reference, make_key_pair, start_files_pair
from bench.runs.http import CONNECTIONS, wrk
from bench.subject import Node

HALF = Goal("at least 0.5 × of nginx → TLS → nginx serving the same files", 0.5)
# What a page is made of, in KiB: eight files of each.
SIZES_KIB = (1, 4, 16, 64)
FILES_EACH = 8
LARGE_MIB = 64

Side = tuple[int, str, Mapping[str, Running | Reference]]

# Requests are made beforehand, so that the generator costs what it costs elsewhere.
ASK_IN_TURN = """local requests, turn = {}, 0
init = function()
  for number, path in ipairs({%s}) do requests[number] = wrk.format("GET", path) end
end
request = function()
  turn = turn %% #requests + 1
  return requests[turn]
end
"""


def run(bench: Bench) -> Iterable[Result]:
    """Serve one folder both ways, and ask for its files in turns."""
    with bench.processes("static") as processes:
        folder = processes.folder / "public"
        small = _fill(folder)
        pair = start_files_pair(processes, make_key_pair(processes.folder), folder)
        node = Node(processes)
        tunnel = node.publish("static", folder, name="files")
        bench.note(pair)
        sides: dict[str, Side] = {
            "moongate": (node.port, tunnel.host, {"node": node.running, "agent": tunnel.agent}),
            "nginx pair": (pair.port, "localhost", {"pair": pair}),
        }
        one_size = [path for path in small if path.startswith("/1-")]
        yield _many(bench, processes.folder, sides, "static-1k", "1 KiB", one_size)
        yield _many(bench, processes.folder, sides, "static-mixed", "1, 4, 16 and 64 KiB by turns", small)
        yield _large(bench, sides)


def _fill(folder: Path) -> list[str]:
    """Write the files, and return the paths of the small ones, all sizes by turns."""
    folder.mkdir()
    folder.chmod(0o755)
    paths = []
    for number in range(FILES_EACH):
        for kib in SIZES_KIB:
            name = f"{kib}-{number}.css"
            (folder / name).write_bytes(os.urandom(kib << 9).hex().encode())
            paths.append(f"/{name}")
    with (folder / "large").open("wb") as large:
        for _ in range(LARGE_MIB):
            large.write(os.urandom(1 << 20))
    return paths


def _many(bench: Bench, folder: Path, sides: Mapping[str, Side], name: str, sizes: str, paths: Sequence[str]) -> Result:
    script = folder / f"{name}.lua"
    script.write_text(ASK_IN_TURN % ", ".join(f'"{path}"' for path in paths))
    for port, host, _ in sides.values():
        wrk(port, host, 1, script)
    seconds = bench.pick(6, 2)
    rounds = in_turns(bench.rounds(), {side: _ask(bench, side, sides[side], seconds, script) for side in sides})
    return compare(
        name,
        f"Files of {sizes} from a published folder, {CONNECTIONS} keep-alive connections",
        "requests/s",
        HALF,
        {side: [found["per_s"] for found in all_found] for side, all_found in rounds.items()},
        reference="nginx pair",
        details={"rounds": rounds},
    )


def _ask(bench: Bench, name: str, side: Side, seconds: float, script: Path) -> Callable[[], dict[str, Any]]:
    port, host, parts = side

    def once() -> dict[str, Any]:
        with cpu_used(parts) as used:
            found = wrk(port, host, seconds, script)
        found["cpu µs per request"] = {part: round(s / found["per_s"] / seconds * 1e6, 1) for part, s in used.items()}
        bench.say(f"{name}: {found['per_s']:,.0f} requests/s, {found['cpu µs per request']}")
        return found

    return once


def _large(bench: Bench, sides: Mapping[str, Side]) -> Result:
    seconds = bench.pick(6, 2)
    rounds = in_turns(bench.rounds(3), {side: _download(bench, side, sides[side], seconds) for side in sides})
    return compare(
        "static-large",
        f"One visitor downloading a file of {LARGE_MIB} MiB from a published folder, again and again",
        "MB/s",
        HALF,
        {side: [found["mb_per_s"] for found in all_found] for side, all_found in rounds.items()},
        reference="nginx pair",
        details={"rounds": rounds},
    )


def _download(bench: Bench, name: str, side: Side, seconds: float) -> Callable[[], dict[str, Any]]:
    port, host, parts = side

    def once() -> dict[str, Any]:
        options = {"port": port, "host": host, "path": "/large", "seconds": seconds}
        with cpu_used(parts) as used:
            found = measure(
                "downloader", *(text for key, value in options.items() for text in (f"--{key}", str(value)))
            )
        bench.say(f"{name}: {found['mb_per_s']:,.0f} MB/s, CPU s {used}")
        return found | {"cpu_s": used}

    return once
