"""When bulk makes way, and for whom."""

from moongate.relay.turns import MICE, MOUSE_BYTES, Mice


def test_a_few_small_pieces_are_how_a_bulk_transfer_begins() -> None:
    mice = Mice()
    for _ in range(MICE - 1):
        mice.saw(100, 5.0)
    mice.saw(MOUSE_BYTES, 5.0)
    assert not mice.are_about(5.0)


def test_many_small_pieces_are_somebody_who_hurries_until_a_while_after_the_last() -> None:
    mice = Mice()
    for number in range(MICE):
        mice.saw(MOUSE_BYTES - 1, 5.0 + number / 100)
    assert mice.are_about(5.1)
    assert mice.are_about(6.9)
    assert not mice.are_about(7.1)


def test_a_new_second_does_not_forget_the_one_before() -> None:
    mice = Mice()
    for _ in range(MICE):
        mice.saw(1, 5.0)
    mice.saw(1, 6.5)
    assert mice.are_about(6.6)
    mice.saw(1, 9.0)
    assert not mice.are_about(9.0)
