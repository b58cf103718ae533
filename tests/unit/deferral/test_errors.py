import pytest

from astronomer.deferral import (
    CredentialsRejected,
    JobCancelled,
    JobError,
    JobFailed,
    JobLost,
    JobTimedOut,
    Transient,
)
from astronomer.deferral._compat import AirflowException, AirflowTaskTimeout


@pytest.mark.parametrize("error", [JobFailed, JobCancelled, JobLost, JobTimedOut])
def test_one_except_handles_every_way_a_job_does_not_succeed(error):
    assert issubclass(error, JobError)
    assert issubclass(error, AirflowException)


def test_a_timeout_is_airflows_timeout_too():
    with pytest.raises(AirflowTaskTimeout):
        raise JobTimedOut("too late")


def test_weather_is_no_error_of_the_job():
    assert not issubclass(Transient, JobError)
    assert Transient("503").retry_after is None
    refused = CredentialsRejected("no", retry_after=3.0)
    assert isinstance(refused, Transient)
    assert refused.retry_after == 3.0
    assert str(refused) == "no"
