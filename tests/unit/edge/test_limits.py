import tracemalloc

import pytest

from moongate.edge.limits import MAX_KEYS, ConnectionLimits, RateLimits, address_key, stricter


class TestRateLimits:
    def test_a_full_bucket_holds_as_many_tokens_as_the_rate(self) -> None:
        limits = RateLimits(5)
        assert [limits.allow("a", 10.0) for _ in range(5)] == [0.0] * 5
        assert limits.allow("a", 10.0) == pytest.approx(0.2)

    def test_the_answer_says_exactly_when_the_next_token_comes(self) -> None:
        limits = RateLimits(5)
        for _ in range(5):
            limits.allow("a", 10.0)
        wait = limits.allow("a", 10.05)
        assert wait == pytest.approx(0.15)
        assert limits.allow("a", 10.05 + wait - 0.001) > 0
        assert limits.allow("a", 10.05 + wait) == 0.0

    def test_a_refusal_costs_nothing(self) -> None:
        limits = RateLimits(1)
        assert limits.allow("a", 0.0) == 0.0
        assert [limits.allow("a", 0.5) for _ in range(100)] == [pytest.approx(0.5)] * 100
        assert limits.allow("a", 1.0) == 0.0

    def test_keys_do_not_share(self) -> None:
        limits = RateLimits(1)
        assert limits.allow("a", 0.0) == 0.0
        assert limits.allow("b", 0.0) == 0.0
        assert limits.allow("a", 0.0) > 0

    def test_an_idle_bucket_is_never_more_than_full(self) -> None:
        limits = RateLimits(3)
        limits.allow("a", 0.0)
        assert [limits.allow("a", 1000.0) for _ in range(4)] == [0.0, 0.0, 0.0, pytest.approx(1 / 3)]

    @pytest.mark.parametrize("rps", [1, 2, 3, 7, 10, 100, 333, 20_000])
    def test_over_ten_seconds_exactly_rate_times_eleven_pass(self, rps: int) -> None:
        limits = RateLimits(rps)
        # Asked at four times the rate: a full bucket at the start, then the refill.
        passed = sum(limits.allow("a", 100.0 + step / (4 * rps)) == 0.0 for step in range(40 * rps + 1))
        assert passed == rps + 10 * rps

    def test_less_than_one_a_second_still_lets_the_first_through(self) -> None:
        limits = RateLimits(0.5)
        assert limits.allow("a", 0.0) == 0.0
        assert limits.allow("a", 0.0) == pytest.approx(2.0)
        assert limits.allow("a", 2.0) == 0.0

    def test_a_deeper_bucket_holds_what_the_rate_gives_in_that_time(self) -> None:
        limits = RateLimits(0.5, depth_s=6.0)
        assert [limits.allow("a", 0.0) for _ in range(3)] == [0.0] * 3
        assert limits.allow("a", 0.0) == pytest.approx(2.0)
        assert limits.allow("a", 2.0) == 0.0

    def test_a_token_that_is_given_back_is_there_again(self) -> None:
        limits = RateLimits(1)
        limits.give_back("never took one")
        assert limits.allow("a", 0.0) == 0.0
        limits.give_back("a")
        assert limits.allow("a", 0.0) == 0.0
        assert limits.allow("a", 0.0) > 0

    def test_zero_is_no_limit_and_keeps_nothing(self) -> None:
        limits = RateLimits(0)
        assert all(limits.allow(key, 0.0) == 0.0 for key in range(1000))
        assert len(limits) == 0

    def test_a_key_may_have_a_rate_of_its_own(self) -> None:
        limits = RateLimits(0)
        assert limits.allow("a", 0.0, 1) == 0.0
        assert limits.allow("a", 0.0, 1) == pytest.approx(1.0)
        assert RateLimits(1).allow("a", 0.0, 0) == 0.0

    def test_idle_keys_are_forgotten_after_a_minute(self) -> None:
        limits = RateLimits(10)
        for key in range(500):
            limits.allow(key, 5.0)
        limits.allow("busy", 60.0)
        assert len(limits) == 501
        limits.allow("busy", 65.1)
        assert len(limits) == 1

    def test_forgetting_gives_nobody_a_new_bucket(self) -> None:
        limits = RateLimits(1)
        limits.allow("sweeps at 60", 0.0)
        assert limits.allow("a", 59.9) == 0.0
        limits.allow("sweeps at 60", 60.0)
        assert limits.allow("a", 60.0) == pytest.approx(0.9)

    def test_more_addresses_than_memory_cost_no_more_than_the_table(self) -> None:
        limits = RateLimits(1)
        for key in range(MAX_KEYS + 5000):
            assert limits.allow(key, 0.0) == 0.0
        assert len(limits) <= MAX_KEYS
        assert limits.allow(MAX_KEYS + 4999, 0.0) > 0

    def test_a_clock_that_goes_back_locks_nobody_out_for_long(self) -> None:
        limits = RateLimits(10)
        limits.allow("a", 100.0)
        assert limits.allow("a", 99.5) == 0.0


class TestConnectionLimits:
    def test_the_last_allowed_one_is_taken_and_the_next_is_not(self) -> None:
        limits = ConnectionLimits(2)
        assert [limits.take("a") for _ in range(3)] == [True, True, False]
        limits.give("a")
        assert limits.take("a")
        assert not limits.take("a")

    def test_keys_do_not_share(self) -> None:
        limits = ConnectionLimits(1)
        assert limits.take("a")
        assert limits.take("b")

    def test_what_is_given_back_takes_no_memory(self) -> None:
        limits = ConnectionLimits(3)
        for _ in range(3):
            limits.take("a")
        for _ in range(3):
            limits.give("a")
        assert len(limits) == 0

    def test_giving_too_often_never_counts_below_nothing(self) -> None:
        limits = ConnectionLimits(1)
        limits.give("a")
        limits.give("a")
        assert limits.take("a")
        assert not limits.take("a")

    def test_zero_is_no_limit_but_is_counted(self) -> None:
        limits = ConnectionLimits(0)
        assert all(limits.take("a") for _ in range(100))
        assert limits.count("a") == 100

    def test_a_limit_that_is_set_later_counts_those_already_there(self) -> None:
        limits = ConnectionLimits(0)
        limits.take("a")
        limits.take("a")
        limits.max = 2
        assert not limits.take("a")
        limits.give("a")
        assert limits.take("a")

    def test_a_key_may_have_a_maximum_of_its_own(self) -> None:
        limits = ConnectionLimits(10)
        assert limits.take("a", 1)
        assert not limits.take("a", 1)
        assert limits.take("a")


class TestAddressKey:
    def test_an_ipv4_address_is_itself(self) -> None:
        assert address_key("192.0.2.7") == "192.0.2.7"

    def test_one_ipv6_subscriber_is_one_key(self) -> None:
        assert address_key("2001:db8:1:2::1") == address_key("2001:db8:1:2:ffff:ffff:ffff:ffff")
        assert address_key("2001:db8:1:2::1") != address_key("2001:db8:1:3::1")

    def test_an_ipv4_address_in_ipv6_clothes_is_the_ipv4_address(self) -> None:
        assert address_key("::ffff:192.0.2.7") == "192.0.2.7"

    def test_a_zone_does_not_make_another_address(self) -> None:
        assert address_key("fe80::1%eth0") == address_key("fe80::2%eth1")

    def test_what_is_no_address_is_counted_as_it_stands(self) -> None:
        assert address_key("unix:") == "unix:"


@pytest.mark.parametrize(("one", "other", "result"), [(0, 0, 0), (5, 0, 5), (0, 5, 5), (5, 3, 3), (3, 5, 3)])
def test_the_stricter_of_two_limits_ignores_the_one_that_is_off(one: int, other: int, result: int) -> None:
    assert stricter(one, other) == result


def test_a_hundred_thousand_addresses_take_less_than_sixteen_mebibytes() -> None:
    limits = RateLimits(1)
    tracemalloc.start()
    try:
        for key in range(MAX_KEYS):
            limits.allow(f"2001:db8:{key:x}", 0.0)
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size < 16 * 2**20
