"""The Statement Execution API, the query history and warehouses, as the unmodified ``databricks-sdk`` uses them."""

import csv
import io
import json

import pyarrow as pa
import pytest
import requests
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import BadRequest, InvalidParameterValue, NotFound, PermissionDenied
from databricks.sdk.service.sql import (
    Disposition,
    ExecuteStatementRequestOnWaitTimeout,
    Format,
    QueryFilter,
    QueryStatus,
    QueryTag,
    StatementParameterListItem,
    StatementState,
    TimeRange,
)

from tests.lab.conftest import until


@pytest.fixture
def lab(module_lab):
    module_lab.faults.clear()
    module_lab.requests.clear()
    module_lab.sql.rows_per_chunk = 10
    yield module_lab
    module_lab.sql.inline_bytes = 25 * 1024 * 1024
    module_lab.sql.consume_inline = False
    module_lab.sql.history_latency = 0


@pytest.fixture(scope="module")
def client(module_lab):
    return WorkspaceClient(host=module_lab.url, token=module_lab.token, auth_type="pat")


@pytest.fixture(scope="module")
def other(module_lab):
    """Another principal."""
    identity = {"client_id": module_lab.client_id, "client_secret": module_lab.client_secret}
    return WorkspaceClient(host=module_lab.url, auth_type="oauth-m2m", **identity)


@pytest.fixture
def execute(lab, client):
    def execute(text, **more):
        return client.statement_execution.execute_statement(text, lab.warehouses.default.id, **more)

    return execute


@pytest.fixture
def post(lab):
    """Send what the SDK would not."""

    def post(**body):
        headers = {"Authorization": f"Bearer {lab.token}"}
        return requests.post(f"{lab.url}/api/2.0/sql/statements", json=body, headers=headers, timeout=30)

    return post


class TestExecute:
    def test_a_short_statement_answers_at_once(self, execute):
        answer = execute("SELECT id, 'x' AS x, cast(null AS DATE) AS n FROM range(3)")
        assert answer.status.state is StatementState.SUCCEEDED
        assert [(c.name, c.type_text) for c in answer.manifest.schema.columns] == [
            ("id", "BIGINT"), ("x", "STRING"), ("n", "DATE")
        ]  # fmt: skip
        assert answer.result.data_array == [["0", "x", None], ["1", "x", None], ["2", "x", None]]
        assert (answer.manifest.total_row_count, answer.manifest.total_chunk_count) == (3, 1)

    def test_no_rows_are_no_chunks(self, execute):
        answer = execute("SELECT id FROM range(3) WHERE id > 5")
        assert (answer.manifest.total_row_count, answer.manifest.total_chunk_count) == (0, 0)
        assert answer.manifest.schema.column_count == 1
        assert answer.result.data_array is None
        assert execute("CREATE SCHEMA IF NOT EXISTS main.empty").manifest.schema.column_count == 0

    def test_a_failure_is_an_answer(self, execute):
        answer = execute("SELECT * FROM nope")
        assert answer.status.state is StatementState.FAILED
        assert answer.status.error.error_code.value == "BAD_REQUEST"
        assert answer.status.error.message.startswith("[TABLE_OR_VIEW_NOT_FOUND] The table or view `nope`")
        assert answer.status.sql_state == "42P01"

    def test_parameters_catalog_and_schema(self, execute):
        parameters = [
            StatementParameterListItem("n", "INT", "2"),
            StatementParameterListItem("day", "DATE", "2020-01-01"),
            StatementParameterListItem("none"),
        ]
        text = "SELECT pickup_zip, :day, :none, current_catalog() FROM trips ORDER BY 1 LIMIT :n"
        answer = execute(text, parameters=parameters, catalog="samples", schema="nyctaxi")
        assert answer.result.data_array[0] == ["10001", "2020-01-01", None, "samples"]
        assert answer.manifest.total_row_count == 2

    def test_asynchronous(self, lab, client, execute):
        started = execute("SELECT lab_wait(60)", wait_timeout="0s")
        assert started.status.state is StatementState.PENDING
        get = client.statement_execution.get_statement
        assert get(started.statement_id).status.state is StatementState.RUNNING
        lab.advance(60)
        until(lambda: get(started.statement_id).status.state is StatementState.SUCCEEDED)
        assert get(started.statement_id).result.data_array == [["60"]]

    def test_a_wait_that_is_too_short_continues_or_cancels(self, lab, execute):
        lab.clock.speed = 50.0
        try:
            going_on = execute("SELECT lab_wait(600)", wait_timeout="5s")
            assert going_on.status.state is StatementState.RUNNING
            cancel = ExecuteStatementRequestOnWaitTimeout.CANCEL
            cancelled = execute("SELECT lab_wait(600)", wait_timeout="5s", on_wait_timeout=cancel)
            assert cancelled.status.state is StatementState.CANCELED
            assert lab.statements[cancelled.statement_id].cancelled_by == "timeout"
        finally:
            lab.clock.speed = 1.0
        lab.cancel_statement_by_user(going_on.statement_id)

    def test_cancel(self, lab, client, execute):
        waiting = execute("SELECT lab_wait(600)", wait_timeout="0s").statement_id
        computing = execute("SELECT count(*) FROM range(1000000000000)", wait_timeout="0s").statement_id
        for one in (waiting, computing):
            client.statement_execution.cancel_execution(one)
        get = client.statement_execution.get_statement
        until(lambda: all(get(one).status.state is StatementState.CANCELED for one in (waiting, computing)))
        assert lab.statements[waiting].cancelled_by == "lab@example.com"
        client.statement_execution.cancel_execution(waiting)

    def test_cancel_by_a_user(self, lab, client, execute):
        statement_id = execute("SELECT lab_wait(600)", wait_timeout="0s").statement_id
        assert lab.cancel_statement_by_user(statement_id)
        assert client.statement_execution.get_statement(statement_id).status.state is StatementState.CANCELED
        assert lab.statements[statement_id].cancelled_by == "user"

    def test_a_stopped_warehouse(self, lab, client):
        warehouse = lab.warehouses.add("cold", start_seconds=90)
        client.warehouses.stop(warehouse.id)
        started = client.statement_execution.execute_statement("SELECT 1", warehouse.id, wait_timeout="0s")
        assert client.warehouses.get(warehouse.id).state.value == "STARTING"
        get = client.statement_execution.get_statement
        assert get(started.statement_id).status.state is StatementState.PENDING
        lab.advance(90)
        until(lambda: get(started.statement_id).status.state is StatementState.SUCCEEDED)
        assert client.warehouses.get(warehouse.id).state.value == "RUNNING"
        assert {one.name for one in client.warehouses.list()} >= {"cold", lab.warehouses.default.name}

    @pytest.mark.parametrize(
        "body",
        [
            {"statement": ""},
            {"wait_timeout": "4s"},
            {"wait_timeout": "51s"},
            {"wait_timeout": "soon"},
            {"disposition": "POST"},
            {"format": "ARROW_STREAM"},
            {"format": "CSV"},
            {"warehouse_id": "wh-1"},
            {"warehouse_id": None},
            {"query_tags": [{"value": "x"}]},
            {"parameters": ["x"]},
        ],
    )
    def test_requests_that_are_refused(self, lab, post, body):
        before = len(lab.statements)
        answer = post(**{"statement": "SELECT 1", "warehouse_id": lab.warehouses.default.id, **body})
        assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
        assert len(lab.statements) == before

    def test_ids_that_do_not_exist(self, client):
        with pytest.raises(NotFound, match="was not found"):
            client.statement_execution.get_statement("01f0")
        with pytest.raises(NotFound, match="does not exist"):
            client.statement_execution.execute_statement("SELECT 1", "0" * 16)


class TestResults:
    def test_inline_chunks(self, client, execute):
        answer = execute("SELECT id FROM range(25)")
        assert [(c.row_offset, c.row_count) for c in answer.manifest.chunks] == [(0, 10), (10, 10), (20, 5)]
        rows, number = answer.result.data_array, answer.result.next_chunk_index
        while number is not None:
            chunk = client.statement_execution.get_statement_result_chunk_n(answer.statement_id, number)
            rows, number = rows + chunk.data_array, chunk.next_chunk_index
        assert rows == [[str(n)] for n in range(25)]
        with pytest.raises(BadRequest, match="out of range"):
            client.statement_execution.get_statement_result_chunk_n(answer.statement_id, 3)

    @pytest.mark.parametrize("form", list(Format))
    def test_external_links(self, client, execute, form):
        text = "SELECT id, concat('x,', id) AS x, null AS n FROM range(25)"
        answer = execute(text, disposition=Disposition.EXTERNAL_LINKS, format=form)
        link, parts = answer.result.external_links[0], []
        assert link.next_chunk_internal_link.startswith(f"/api/2.0/sql/statements/{answer.statement_id}/")
        while link is not None:
            parts.append(requests.get(link.external_link, timeout=30).content)
            follow = link.next_chunk_index
            link = (
                follow
                and client.statement_execution.get_statement_result_chunk_n(
                    answer.statement_id, follow
                ).external_links[0]
            )
        rows = [row for part in parts for row in decoded(form, part)]
        header = [["id", "x", "n"]] if form is Format.CSV else []
        null = "null" if form is Format.CSV else None
        assert rows == header + [[str(n), f"x,{n}", null] for n in range(25)]

    def test_a_link_takes_no_credential_and_expires(self, lab, client, execute):
        answer = execute("SELECT 1", disposition=Disposition.EXTERNAL_LINKS)
        url = answer.result.external_links[0].external_link
        assert requests.get(url, timeout=30).json() == [["1"]]
        refused = requests.get(url, headers={"Authorization": f"Bearer {lab.token}"}, timeout=30)
        assert (refused.status_code, "InvalidArgument" in refused.text) == (400, True)
        assert requests.get(url[:-1] + "x", timeout=30).status_code == 403
        lab.advance(901)
        expired = requests.get(url, timeout=30)
        assert (expired.status_code, "Request has expired" in expired.text) == (403, True)
        again = client.statement_execution.get_statement_result_chunk_n(answer.statement_id, 0)
        assert requests.get(again.external_links[0].external_link, timeout=30).json() == [["1"]]

    def test_too_large_for_inline(self, lab, execute):
        lab.sql.inline_bytes = 100
        answer = execute("SELECT id FROM range(25)")
        assert answer.status.state is StatementState.FAILED
        assert "Inline byte limit exceeded" in answer.status.error.message
        external = execute("SELECT id FROM range(25)", disposition=Disposition.EXTERNAL_LINKS)
        assert external.status.state is StatementState.SUCCEEDED

    def test_row_limit(self, execute):
        answer = execute("SELECT id FROM range(25)", row_limit=4)
        assert (answer.manifest.total_row_count, answer.manifest.truncated) == (4, True)

    def test_results_are_closed_after_an_hour(self, lab, client, execute):
        answer = execute("SELECT 1")
        lab.expire_results()
        closed = client.statement_execution.get_statement(answer.statement_id)
        assert (closed.status.state, closed.result) == (StatementState.CLOSED, None)
        with pytest.raises(NotFound, match="no longer available"):
            client.statement_execution.get_statement_result_chunk_n(answer.statement_id, 0)

    def test_inline_results_may_be_consumed_by_fetching(self, lab, client, execute):
        lab.sql.consume_inline = True
        answer = execute("SELECT 1")
        assert answer.result.data_array == [["1"]]
        assert (
            client.statement_execution.get_statement(answer.statement_id).status.state
            is StatementState.CLOSED
        )

    def test_only_the_executing_principal_may_fetch(self, other, execute):
        answer = execute("SELECT 1")
        with pytest.raises(PermissionDenied, match="executing principal"):
            other.statement_execution.get_statement(answer.statement_id)
        with pytest.raises(PermissionDenied):
            other.statement_execution.cancel_execution(answer.statement_id)


class TestHistory:
    def test_statements_are_found_by_id_with_their_tags(self, client, execute):
        answer = execute("SELECT 1", query_tags=[QueryTag("airflow_key", "abc"), QueryTag("bare")])
        failed = execute("SELECT nope")
        wanted = QueryFilter(statement_ids=[answer.statement_id, failed.statement_id])
        newest, oldest = client.query_history.list(filter_by=wanted).res
        assert (oldest.query_id, oldest.status, oldest.rows_produced) == (
            answer.statement_id,
            QueryStatus.FINISHED,
            1,
        )
        assert [(tag.key, tag.value) for tag in oldest.query_tags] == [("airflow_key", "abc"), ("bare", None)]
        assert oldest.statement_type.value == "SELECT"
        assert newest.status is QueryStatus.FAILED
        assert newest.error_message.startswith("[UNRESOLVED_COLUMN")

    def test_filters(self, lab, client, execute):
        warehouse = lab.warehouses.add("quiet")
        before = int(lab.clock.now() * 1000) - 1
        running = client.statement_execution.execute_statement(
            "SELECT lab_wait(99)", warehouse.id, wait_timeout="0s"
        )

        def found(**filter_by):
            page = client.query_history.list(filter_by=QueryFilter(warehouse_ids=[warehouse.id], **filter_by))
            return [one.query_id for one in page.res]

        assert found() == found(statuses=[QueryStatus.RUNNING]) == [running.statement_id]
        assert found(statuses=[QueryStatus.FINISHED]) == []
        assert found(query_start_time_range=TimeRange(start_time_ms=before)) == [running.statement_id]
        assert found(query_start_time_range=TimeRange(end_time_ms=before)) == []
        user = (
            client.query_history.list(filter_by=QueryFilter(statement_ids=[running.statement_id]))
            .res[0]
            .user_id
        )
        assert found(user_ids=[user]) == [running.statement_id]
        assert found(user_ids=[user + 1]) == []
        lab.cancel_statement_by_user(running.statement_id)
        assert found(statuses=[QueryStatus.CANCELED]) == [running.statement_id]

    def test_pages(self, lab, client):
        warehouse = lab.warehouses.add("busy")
        ids = [lab.sql.submit("SELECT 1", warehouse_id=warehouse.id).id for _ in range(5)]
        wanted, seen, token = QueryFilter(warehouse_ids=[warehouse.id]), [], None
        while True:
            page = client.query_history.list(filter_by=wanted, max_results=2, page_token=token)
            seen += [one.query_id for one in page.res]
            token = page.next_page_token
            if not page.has_next_page:
                break
        assert seen == ids[::-1]

    def test_the_filter_may_come_in_the_body(self, lab, execute):
        answer = execute("SELECT 1")
        headers = {"Authorization": f"Bearer {lab.token}"}
        body = {"filter_by": {"statement_ids": [answer.statement_id]}}
        page = requests.get(
            f"{lab.url}/api/2.0/sql/history/queries", json=body, headers=headers, timeout=30
        ).json()
        assert [one["query_id"] for one in page["res"]] == [answer.statement_id]

    def test_latency(self, lab, client, execute):
        lab.sql.history_latency = 30
        wanted = QueryFilter(statement_ids=[execute("SELECT 1").statement_id])
        assert not client.query_history.list(filter_by=wanted).res
        lab.advance(31)
        assert len(client.query_history.list(filter_by=wanted).res) == 1


class TestFaults:
    def test_an_effect_may_be_kept_and_its_answer_lost(self, lab, post):
        lab.faults.lose_answer(r"/sql/statements$", times=1)
        before = len(lab.statements)
        with pytest.raises(requests.ConnectionError):
            post(
                statement="SELECT 1",
                warehouse_id=lab.warehouses.default.id,
                query_tags=[{"key": "k", "value": "v"}],
            )
        assert len(lab.statements) == before + 1
        assert list(lab.statements.values())[-1].tags == {"k": "v"}

    def test_a_bad_token_is_refused(self, lab):
        stranger = WorkspaceClient(host=lab.url, token="dapi0", auth_type="pat")
        with pytest.raises((PermissionDenied, InvalidParameterValue)):
            stranger.statement_execution.get_statement("01f0")


def decoded(form, content):
    """Return the rows of one chunk as strings."""
    if form is Format.JSON_ARRAY:
        return json.loads(content)
    if form is Format.CSV:
        return list(csv.reader(io.StringIO(content.decode())))
    table = pa.ipc.open_stream(content).read_all()
    return [[None if v is None else str(v) for v in row.values()] for row in table.to_pylist()]
