"""The live panel: a pure function from a `View`, a time and a size to something rich can print."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from moongate.cli.text import human_age, human_bytes, human_duration, neutralise, shortened
from moongate.cli.view import Light, RequestView, TunnelView, View

# A proof is made every 5 s (see docs/protocol/tunnel.md); after two missed ones it counts as old.
PROOF_IS_FRESH_S = 12.0
NARROW = 60
_STATES = {"online": "green", "connecting": "yellow", "reconnecting": "yellow", "stopped": "red"}


def render(view: View, *, now: float, width: int, height: int) -> RenderableType:
    """Return the panel for a terminal of this size; `now` is monotonic, as the lamps' times are."""
    parts: list[RenderableType] = [_title(view), _lights(view.lights, now)]
    troubles = [f"{light.name}: {light.detail}" for light in view.lights if light.detail]
    parts += [_line(trouble, "red") for trouble in troubles]
    parts += [_line(fact, "dim") for fact in view.facts]
    parts.append(Text(""))
    parts.append(_tunnels(view.tunnels, width))
    parts += [_line(f"! {notice}", "yellow") for notice in view.notices]
    used = 4 + len(troubles) + len(view.facts) + _tunnel_lines(view.tunnels) + len(view.notices) + 5
    parts.extend(_requests(view, width, max(height - used, 3)))
    parts += [Text(""), Text("Ctrl-C stops", style="dim")]
    return Padding(Group(*parts), (1, 1, 0, 1))


def _line(text: str, style: str) -> Text:
    return Text(neutralise(text), style=style, no_wrap=True, overflow="ellipsis")


def _title(view: View) -> Text:
    colour = _STATES.get(view.state, "yellow")
    title = Text.assemble(("moongate", "bold"), "  ", (neutralise(view.state), f"bold {colour}"), no_wrap=True)
    if view.node:
        title.append(f"  {neutralise(view.node)}", style="dim")
    return title


def _lights(lights: tuple[Light, ...], now: float) -> Text:
    line = Text(no_wrap=True, overflow="ellipsis")
    for index, light in enumerate(lights):
        line.append("   " if index else "")
        line.append_text(_light(light, now))
    return line


def _light(light: Light, now: float) -> Text:
    """A lamp says what was proven and when, never more."""
    if light.proven_at is None:
        words = "failing" if light.detail else "not tried yet"
        return Text.assemble(("○", "red" if light.detail else "dim"), f" {light.name} ", (words, "dim"))
    age = now - light.proven_at
    fresh = age < PROOF_IS_FRESH_S
    colour = ("green" if fresh else "yellow") if light.ok else "red"
    said = [human_duration(light.rtt_s)] if light.ok and light.rtt_s is not None else []
    said += [] if light.ok else ["failing"]
    said += [] if fresh else [f"proven {human_age(age)}"]
    return Text.assemble(("●", colour), f" {light.name} ", (" · ".join(said) or "ok", "dim"))


def _tunnels(tunnels: tuple[TunnelView, ...], width: int) -> RenderableType:
    if not tunnels:
        return Text("no tunnel yet", style="dim")
    return Group(*(line for tunnel in tunnels for line in _tunnel(tunnel, width)))


def _tunnel(tunnel: TunnelView, width: int) -> Iterator[Text]:
    # The URL is never cut: it is what people came for, and a terminal wraps it in a way that can still be copied.
    url = neutralise(tunnel.public_url)
    head = Text(overflow="fold")
    head.append(url or neutralise(tunnel.note), style=f"bold {'cyan' if url else 'yellow'}")
    head.append(f"  →  {neutralise(tunnel.local)}")
    yield head
    noun = "requests" if tunnel.kind in ("http", "static") else "connections"
    count = tunnel.requests if noun == "requests" else tunnel.connections
    traffic = f"in {human_bytes(tunnel.bytes_in)} · out {human_bytes(tunnel.bytes_out)}"
    counters = (
        f"  {count} {noun} · {tunnel.connections} open · {traffic}"
        if noun == "requests"
        else f"  {count} {noun} · {traffic}"
    )
    note = f" · {neutralise(tunnel.note)}" if tunnel.note and url else ""
    yield Text(shortened(counters + note, max(width - 2, 20)), style="dim", no_wrap=True)


def _tunnel_lines(tunnels: tuple[TunnelView, ...]) -> int:
    return max(2 * len(tunnels), 1)


def _requests(view: View, width: int, rows: int) -> Iterator[RenderableType]:
    if not any(tunnel.kind in ("http", "static") for tunnel in view.tunnels):
        return
    yield Text("")
    latest = list(view.requests)[-rows:]
    if not latest:
        yield Text("no request yet", style="dim")
        return
    yield _request_table(latest, width)


def _request_table(requests: list[RequestView], width: int) -> Table:
    table = Table.grid(padding=(0, 2))
    for name in ("time", "method", "path", "status", "duration"):
        if name == "time" and width < NARROW:
            continue
        table.add_column(name, no_wrap=True, overflow="ellipsis", justify="right" if name == "duration" else "left")
    room = max(width - (46 if width >= NARROW else 36), 8)
    for request in requests:
        table.add_row(*_request_cells(request, room, with_time=width >= NARROW))
    return table


def _request_cells(request: RequestView, room: int, *, with_time: bool) -> Iterator[Text]:
    if with_time:
        yield Text(_clock(request.at), style="dim")
    yield Text(shortened(neutralise(request.method), 8))
    yield Text(shortened(neutralise(request.path), room))
    yield Text(str(request.status), style=_status_style(request.status))
    yield Text(human_duration(request.duration_s), style="dim")


def _clock(at: float) -> str:
    from time import localtime, strftime

    return strftime("%H:%M:%S", localtime(at))


def _status_style(status: int) -> str:
    return {2: "green", 3: "cyan", 4: "yellow", 5: "bold red"}.get(status // 100, "dim")
