"""Runs the benchmarks side by side and writes the report: `python -m bench [--only NAME] [--quick]`."""

import argparse
import datetime
import math
import resource
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

from bench.bench import Bench
from bench.figures import Goal, Result
from bench.machine import describe_machine, describe_versions
from bench.peers import missing, remedy
from bench.report import Run, goal_lines, write_report
from bench.runs import bulk, fairness, http, idle, recovery, static, visitors

DOCS = Path(__file__).resolve().parents[2] / "docs"
NOTES = Path(__file__).with_name("notes.toml")

RUNS: dict[str, Callable[[Bench], Iterable[Result]]] = {
    "http": http.run,
    "static": static.run,
    "bulk": bulk.run,
    "bulk-far": bulk.run_far,
    "fairness": fairness.run,
    "visitors": visitors.run,
    "idle": idle.run,
    "churn": visitors.run_churn,
    "recovery": recovery.run,
}


def main() -> int:
    given = _arguments()
    if absent := missing():
        print(remedy(absent), file=sys.stderr)
        return 2
    _raise_descriptor_limit()
    began_at = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    with tempfile.TemporaryDirectory(prefix="moongate-bench-") if not given.keep else _Kept() as name:
        folder = Path(name)
        # nginx's worker must reach its files here even where it is not root.
        folder.chmod(0o755)
        bench = Bench(folder, given.quick)
        results = [one for name in given.only or RUNS for one in _run(bench, name)]
        for one in results:
            one.measured_at, one.quick = began_at, given.quick
        run = Run(describe_machine(), describe_versions(), bench.configurations, began_at)
        out = given.out or (Path(tempfile.mkdtemp(prefix="moongate-bench-report-")) if given.quick else DOCS)
        write_report(out, run, results, NOTES)
    print("\n".join(["", *goal_lines(results), f"report: {out / 'benchmarks.md'}"]))
    return 1 if any(one.failure for one in results) else 0


def _raise_descriptor_limit() -> None:
    """Ten thousand agents are ten thousand descriptors; the soft limit is often 1 024. Children inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--only", action="append", choices=list(RUNS), help="just this part; may be repeated")
    parser.add_argument("--quick", action="store_true", help="short rounds; the report goes to a temporary folder")
    parser.add_argument("--out", type=Path, help="folder of the report instead of docs/")
    parser.add_argument("--keep", action="store_true", help="keep the run's folder with all logs")
    return parser.parse_args()


def _run(bench: Bench, name: str) -> list[Result]:
    """Run one part; a failure becomes a line of the report, and the others go on."""
    print(f"{name}:", flush=True)
    results: list[Result] = []
    try:
        for one in RUNS[name](bench):
            results.append(one)
            print(goal_lines([one])[0], flush=True)
    except Exception as error:
        traceback.print_exc()
        failed = Goal("runs to its end", 1.0)
        results.append(
            Result(f"{name}-failed", f"{name} did not run to its end", "", failed, math.nan, failure=str(error))
        )
    return results


class _Kept:
    """A folder that stays, for looking at logs afterwards."""

    def __enter__(self) -> str:
        folder = tempfile.mkdtemp(prefix="moongate-bench-")
        print(f"logs: {folder}")
        return folder

    def __exit__(self, *_: object) -> None:
        return


if __name__ == "__main__":
    sys.exit(main())
