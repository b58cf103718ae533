"""Nothing that an Airflow writes holds a credential: not its logs, its database, its events nor its errors."""

from __future__ import annotations

import pytest

from tools.demo.leaks import airflow_secrets
from tools.demo.secrets import Search, Secret

pytestmark = [pytest.mark.xdist_group("security"), pytest.mark.timeout(240)]


@pytest.fixture(scope="session")
def search(ran):
    known = [Secret(name, value) for name, value in ran.secrets.items()]
    return Search([*airflow_secrets(ran.environment), *known], [ran.environment["AIRFLOW__CORE__FERNET_KEY"]])


def test_every_case_ends_as_it_should(ran):
    assert ran.wrong == ["as it should be"], ran.output[-3000:]


def test_no_credential_is_written_anywhere(ran, search):
    found = {str(one) for one in search.files(ran.home)}
    assert not found, "\n".join(sorted(found)[:60])
