from datetime import timedelta

import pytest

from astronomer.deferral.settings import seconds


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
