"""What every benchmark gets: a folder, how long it may take, and a place to leave configurations."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.processes import Processes, Running
from bench.references import Reference
from bench.subject import Node


@dataclass(slots=True)
class Bench:
    """One run of the benchmarks."""

    folder: Path
    quick: bool
    configurations: dict[str, str] = field(default_factory=dict)
    _part: str = ""

    def pick(self, full: float, quick: float) -> float:
        return quick if self.quick else full

    def rounds(self, full: int = 5) -> int:
        return 2 if self.quick else full

    def say(self, text: str) -> None:
        print(f"  {text}", flush=True)

    @contextmanager
    def processes(self, name: str) -> Iterator[Processes]:
        """A folder and a set of processes of this benchmark's own."""
        folder = self.folder / name
        folder.mkdir(parents=True)
        with Processes(folder) as processes:
            yield processes

    def note(self, *references: Reference | Node) -> None:
        """Keep configurations for the report, without this run's folder in them."""
        for reference in references:
            texts = reference.configurations if isinstance(reference, Reference) else {"moongate": describe(reference)}
            for name, text in texts.items():
                self.configurations.setdefault(name, text.replace(str(self.folder), "$RUN"))


def describe(node: Node) -> str:
    """How a node and its agents are started, as a shell would say it."""
    environment = "\n".join(f"{key}={value}" for key, value in node.env.items() if key != "NO_COLOR")
    return (
        f"{environment}\nmoongate server\nmoongate http PORT --server @join --json   # or: moongate tcp PORT\n"
        "# everything else as it starts: capture, records, metrics and history on"
    )


@contextmanager
def cpu_used(parts: Mapping[str, Running | Reference]) -> Iterator[dict[str, float]]:
    """Fill a dictionary with the processor seconds each part used inside the block."""
    before = {name: part.cpu_s() for name, part in parts.items()}
    used: dict[str, float] = {}
    yield used
    used |= {name: round(part.cpu_s() - before[name], 3) for name, part in parts.items()}
