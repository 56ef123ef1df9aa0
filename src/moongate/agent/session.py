"""The life of an agent's session with its node, as a table: what is asked and what happens, in which state."""

from enum import StrEnum
from typing import Final


class State(StrEnum):
    """Where the session is."""

    STOPPED = "stopped"
    CONNECTING = "connecting"
    WAITING = "waiting"  # for the next attempt, or making one after the first
    CONNECTED = "connected"
    FAILED = "failed"


class Event(StrEnum):
    """What is asked of the session, or happens to it."""

    START = "start"
    SHUTDOWN = "shutdown"
    RESTART = "restart"
    LINKED = "linked"
    LOST = "lost"  # the link is gone, or an attempt failed
    SPENT = "spent"  # as many attempts as there may be have failed


class Deed(StrEnum):
    """What is to be done then."""

    NOTHING = "nothing"
    BEGIN = "begin"  # connect, and keep connected
    HURRY = "hurry"  # connect now, counting from the first attempt
    RENEW = "renew"  # end the link and make another one
    END = "end"


Turn = tuple[State, Deed]

TURNS: Final[dict[tuple[State, Event], Turn]] = {
    (State.STOPPED, Event.START): (State.CONNECTING, Deed.BEGIN),
    (State.STOPPED, Event.RESTART): (State.CONNECTING, Deed.BEGIN),
    (State.CONNECTING, Event.SHUTDOWN): (State.STOPPED, Deed.END),
    (State.CONNECTING, Event.RESTART): (State.CONNECTING, Deed.HURRY),
    (State.CONNECTING, Event.LINKED): (State.CONNECTED, Deed.NOTHING),
    (State.CONNECTING, Event.LOST): (State.WAITING, Deed.NOTHING),
    (State.CONNECTING, Event.SPENT): (State.FAILED, Deed.NOTHING),
    (State.WAITING, Event.START): (State.CONNECTING, Deed.HURRY),
    (State.WAITING, Event.SHUTDOWN): (State.STOPPED, Deed.END),
    (State.WAITING, Event.RESTART): (State.CONNECTING, Deed.HURRY),
    (State.WAITING, Event.LINKED): (State.CONNECTED, Deed.NOTHING),
    (State.WAITING, Event.SPENT): (State.FAILED, Deed.NOTHING),
    (State.CONNECTED, Event.SHUTDOWN): (State.STOPPED, Deed.END),
    (State.CONNECTED, Event.RESTART): (State.CONNECTING, Deed.RENEW),
    (State.CONNECTED, Event.LOST): (State.WAITING, Deed.NOTHING),
    (State.CONNECTED, Event.SPENT): (State.FAILED, Deed.NOTHING),
    (State.FAILED, Event.START): (State.CONNECTING, Deed.BEGIN),
    (State.FAILED, Event.SHUTDOWN): (State.STOPPED, Deed.NOTHING),
    (State.FAILED, Event.RESTART): (State.CONNECTING, Deed.BEGIN),
}


def turn(state: State, event: Event) -> Turn:
    """Return the state that follows, and what is to be done; what the table does not name changes nothing."""
    return TURNS.get((state, event), (state, Deed.NOTHING))
