"""Addresses in Snowsight."""

from __future__ import annotations

import pytest

from astronomer.deferral import _compat
from astronomer.providers.snowflake import links
from astronomer.providers.snowflake.operators.snowflake import SnowflakeOperator, SnowflakeSqlApiOperator


@pytest.mark.parametrize(
    ("account", "place"),
    [
        ("acme-prod", "acme/prod"),
        ("acme-prod-eu", "acme/prod-eu"),
        ("ab12345", "us-west-2/ab12345"),
        ("ab12345.eu-west-1", "eu-west-1/ab12345"),
        ("ab12345.europe-west3.gcp", "europe-west3.gcp/ab12345"),
    ],
)
def test_each_form_of_an_account(account, place):
    assert (
        links.snowsight_url(account, "01b")
        == f"https://app.snowflake.com/{place}/#/compute/history/queries/01b/detail"
    )


class FakeXCom:
    found = None

    @classmethod
    def get_value(cls, *, key, ti_key):
        assert (key, ti_key) == ("snowsight_query", "the task")
        return cls.found


@pytest.mark.parametrize(("pushed", "shown"), [("https://x", "https://x"), (None, ""), (7, "")])
def test_the_link_is_what_the_task_pushed(monkeypatch, pushed, shown):
    assert _compat.XCom is links.XCom
    monkeypatch.setattr(links, "XCom", FakeXCom)
    monkeypatch.setattr(FakeXCom, "found", pushed)
    assert links.SnowsightQueryLink().get_link(None, ti_key="the task") == shown


@pytest.mark.parametrize("operator", [SnowflakeOperator, SnowflakeSqlApiOperator])
def test_operators_have_it(operator):
    assert [type(link) for link in operator.operator_extra_links] == [links.SnowsightQueryLink]
