from hypothesis import example, given
from hypothesis import strategies as st

from moongate.config import Config, PortRange, differences, load_config, split_address, without_password
from moongate.errors import ConfigurationError

ports = st.integers(1, 65535)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.lists(st.text(max_size=5), max_size=3)
)
KEYS = [setting.key for setting in Config().explain()]


@given(ports, ports)
def test_a_port_range_reads_back_what_it_prints(one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert PortRange.parse(str(PortRange(low, high))) == PortRange(low, high)


@given(st.text(max_size=40))
def test_an_address_is_split_or_refused(text: str) -> None:
    try:
        host, port = split_address(text)
    except ValueError:
        return
    assert host
    assert 0 <= port <= 65535


@given(st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=12), scalars, max_size=3))
@example({"home": True})
def test_any_overrides_give_settings_or_a_configuration_error(overrides: dict[str, object]) -> None:
    try:
        config = load_config(env={"MOONGATE_HOME": "/nonexistent"}, overrides=overrides)
    except ConfigurationError:
        return
    assert differences(config, config) == frozenset()
    assert len(config.explain()) == len(KEYS)


@given(st.text("abc:/@?", max_size=10).filter(lambda text: "@" not in text))
def test_no_password_survives_masking(secret: str) -> None:
    marked = f"hush{secret}hush"
    assert "hush" not in without_password(f"postgresql://user:{marked}@db/name")
