from datetime import timedelta

import pytest
from tenacity import stop_after_attempt, stop_after_delay, stop_never, wait_exponential, wait_fixed

from astronomer.deferral.settings import seconds, tolerance_of


def test_an_argument_goes_before_the_configuration_before_the_default(monkeypatch):
    assert seconds(None, "no_such_option", 7.0) == 7.0
    monkeypatch.setenv("AIRFLOW__ASTRONOMER_PROVIDERS__NO_SUCH_OPTION", "3")
    assert seconds(None, "no_such_option", 7.0) == 3.0
    assert seconds(0, "no_such_option", 7.0) == 0.0


def test_a_duration_is_seconds_or_a_timedelta():
    assert seconds(timedelta(minutes=2), "poll_interval", 7.0) == 120.0
    assert seconds(2, "poll_interval", 7.0) == 2.0


@pytest.mark.parametrize("value", [-1, timedelta(seconds=-1)])
def test_it_is_never_negative(value):
    with pytest.raises(ValueError, match="poll_interval must not be negative"):
        seconds(value, "poll_interval", 7.0)


class TestTolerance:
    @pytest.mark.parametrize(
        ("retry", "seconds"),
        [
            (None, None),
            ({}, None),
            ({"wait": wait_fixed(1)}, None),
            ({"stop": stop_after_attempt(1)}, 0.0),
            ({"stop": stop_after_attempt(5), "wait": wait_fixed(2)}, 8.0),
            ({"stop": stop_after_attempt(4), "wait": wait_exponential(min=1, max=10)}, 7.0),
            ({"stop": stop_after_delay(30), "wait": wait_fixed(7)}, 35.0),
            ({"stop": stop_never, "wait": wait_fixed(1)}, None),
            (
                {
                    "stop": stop_after_attempt(3),
                    "wait": wait_fixed(1),
                    "reraise": True,
                    "before_sleep": print,
                },
                2.0,
            ),
        ],
    )
    def test_is_as_long_as_tenacity_would_go_on(self, retry, seconds):
        assert tolerance_of(retry) == (None if seconds is None else pytest.approx(seconds))
