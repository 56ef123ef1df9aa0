"""The life of a session, as the specification's table has it."""

import pytest

from moongate.agent.session import TURNS, Deed, Event, State, turn

# State, then what follows start, shutdown, restart and the loss of the link.
TABLE = {
    State.STOPPED: (State.CONNECTING, State.STOPPED, State.CONNECTING, State.STOPPED),
    State.CONNECTING: (State.CONNECTING, State.STOPPED, State.CONNECTING, State.WAITING),
    State.WAITING: (State.CONNECTING, State.STOPPED, State.CONNECTING, State.WAITING),
    State.CONNECTED: (State.CONNECTED, State.STOPPED, State.CONNECTING, State.WAITING),
    State.FAILED: (State.CONNECTING, State.STOPPED, State.CONNECTING, State.FAILED),
}


@pytest.mark.parametrize("state", State)
def test_each_state_is_followed_as_the_table_says(state: State) -> None:
    events = (Event.START, Event.SHUTDOWN, Event.RESTART, Event.LOST)
    assert tuple(turn(state, event)[0] for event in events) == TABLE[state]


def test_a_second_start_begins_nothing_a_second_time() -> None:
    assert turn(State.CONNECTING, Event.START) == (State.CONNECTING, Deed.NOTHING)
    assert turn(State.CONNECTED, Event.START) == (State.CONNECTED, Deed.NOTHING)


def test_whoever_runs_can_be_ended_and_whoever_does_not_can_be_begun() -> None:
    for (_, event), (_, deed) in TURNS.items():
        if event is Event.SHUTDOWN:
            assert deed in (Deed.END, Deed.NOTHING)
    assert {turn(state, Event.START)[1] for state in (State.STOPPED, State.FAILED)} == {Deed.BEGIN}
