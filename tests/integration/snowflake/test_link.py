"""The link to Snowsight is on the task's page while the query runs."""

from __future__ import annotations

import pytest

from astronomer.providers.snowflake.links import SnowsightQueryLink
from astronomer.providers.snowflake.operators.snowflake import SnowflakeOperator
from tests.integration.snowflake.driving import DyingStore, Killed, Task, polls


@pytest.mark.parametrize("deferrable", [True, False])
@pytest.mark.parametrize("quick_wait", [0, 5])
def test_it_is_pushed_before_the_first_look(lab, deferrable, quick_wait):
    task = Task(
        SnowflakeOperator, sql="select system$wait(0.3)", deferrable=deferrable, quick_wait=quick_wait
    )
    task.run()
    (push,) = [one for one in task.ti.pushes if one.key == SnowsightQueryLink.xcom_key]
    assert push.at < polls(lab)[0].at
    (query_id,) = task.op.get_db_hook().query_ids
    assert (
        push.value == f"https://app.snowflake.com/us-west-2/lab/#/compute/history/queries/{query_id}/detail"
    )


def test_a_retry_that_re_attaches_pushes_it_again(lab):
    store = DyingStore()
    store.dies_at = 2
    task = Task(SnowflakeOperator, sql="CALL SYSTEM$WAIT(0.3)", store=store)
    with pytest.raises(Killed):
        task.start()
    assert task.ti.pushes == []
    task.next_try()
    task.run()
    assert task.ti.xcoms["snowsight_query"].endswith(f"{task.query_id}/detail")


def test_without_xcoms_of_results_it_is_there_all_the_same(lab):
    task = Task(SnowflakeOperator, sql="select 1", do_xcom_push=False)
    task.run()
    assert task.query_id in task.ti.xcoms["snowsight_query"]


@pytest.mark.parametrize(
    ("extra", "place"),
    [({"account": "org-lab"}, "org/lab"), ({"account": "lab", "region": "eu-west-1"}, "eu-west-1/lab")],
)
def test_its_address_follows_the_connection(lab, connect_as, extra, place):
    connect_as(**extra)
    task = Task(SnowflakeOperator, sql="select 1")
    task.deferred()
    assert task.ti.xcoms["snowsight_query"].startswith(f"https://app.snowflake.com/{place}/#/")
