"""What a viewer or an editor could try to get at credentials, or at more than their role."""

from __future__ import annotations

import json

import pytest

from tests.integration.runtime.deployment import http
from tests.integration.runtime.server import PASSWORD, VALUE

pytestmark = [pytest.mark.xdist_group("runtime-server"), pytest.mark.timeout(400)]

RUN = "/api/v2/dags/orders/dagRuns/run"
CONNECTION = {"connection_id": "bank", "conn_type": "http"}
VARIABLE = {"key": "safe", "value": "mine"}


def bulk(entity, name, *, action):
    entities = [name] if action == "delete" else [entity]
    extra = {"action_on_existence": "overwrite"} if action == "create" else {}
    return {"actions": [{"action": action, "entities": entities, **extra}]}


def bulks(path, entity, name):
    return [("PATCH", path, bulk(entity, name, action=action)) for action in ("create", "update", "delete")]


FORBIDDEN = [
    ("GET", "/api/v2/connections", None),
    ("GET", "/api/v2/connections/bank", None),
    ("GET", "/api/v2/connections?limit=1&order_by=connection_id", None),
    ("POST", "/api/v2/connections", {"connection_id": "new", "conn_type": "http"}),
    ("PATCH", "/api/v2/connections/bank", CONNECTION),
    ("PATCH", "/api/v2/connections/bank?update_mask=host", {**CONNECTION, "host": "evil.example"}),
    ("DELETE", "/api/v2/connections/bank", None),
    ("POST", "/api/v2/connections/test", CONNECTION),
    ("POST", "/api/v2/connections/test", {**CONNECTION, "host": "evil.example"}),
    ("POST", "/api/v2/connections/enqueue-test", CONNECTION),
    ("POST", "/api/v2/connections/enqueue-test", {**CONNECTION, "commit_on_success": True}),
    ("POST", "/api/v2/connections/defaults", None),
    *bulks("/api/v2/connections", CONNECTION, "bank"),
    ("PATCH", "/api/v2/connections", {"actions": []}),
    ("GET", "/ui/connections/hook_meta", None),
    ("GET", "/api/v2/variables", None),
    ("GET", "/api/v2/variables/safe", None),
    ("GET", "/api/v2/variables/%73afe", None),
    ("GET", "/api/v2/variables/a/../safe", None),
    ("POST", "/api/v2/variables", {"key": "new", "value": "1"}),
    ("PATCH", "/api/v2/variables/safe", VARIABLE),
    ("DELETE", "/api/v2/variables/safe", None),
    *bulks("/api/v2/variables", VARIABLE, "safe"),
    ("PATCH", "/api/v2/variables", {"actions": []}),
    ("POST", "/api/v2/pools", {"name": "mine", "slots": 1}),
    ("PATCH", "/api/v2/pools/default_pool", {"pool": "default_pool", "slots": 0}),
    *bulks("/api/v2/pools", {"name": "mine", "slots": 1}, "mine"),
    ("PATCH", "/api/v2/pools", {"actions": []}),
    ("GET", "/api/v2/config", None),
    ("GET", "/api/v2/config?section=database", None),
    ("GET", "/api/v2/config/section/database/option/sql_alchemy_conn", None),
    ("GET", "/api/v2/eventLogs", None),
    ("GET", "/api/v2/eventLogs?dag_id=orders", None),
    ("GET", "/api/v2/plugins", None),
    ("GET", "/api/v2/providers", None),
    ("GET", "/api/v2/jobs", None),
    ("POST", f"{RUN}/taskInstances/a/xcomEntries", {"key": "return_value", "value": "mine", "map_index": -1}),
    ("PATCH", f"{RUN}/taskInstances/a/xcomEntries/return_value", {"value": "mine", "map_index": -1}),
    ("DELETE", f"{RUN}/taskInstances/a/xcomEntries/return_value", None),
]
ONLY_FOR_EDITORS = [
    ("POST", "/api/v2/dags/orders/dagRuns", {"logical_date": None, "conf": {"a": 1}}),
    ("PATCH", "/api/v2/dags/orders", {"is_paused": True}),
    ("PATCH", "/api/v2/dags?dag_id_pattern=~", {"is_paused": True}),
    ("POST", "/api/v2/dags/orders/clearTaskInstances", {"dry_run": False}),
    ("PATCH", RUN, {"state": "failed"}),
    ("PATCH", "/api/v2/dags/~/dagRuns", bulk({"dag_id": "orders", "dag_run_id": "run"}, "run", action="update")),
    ("DELETE", RUN, None),
    ("POST", "/api/v2/backfills", {"dag_id": "orders", "from_date": "2026-01-01T00:00:00Z", "to_date": "2026-01-02T00:00:00Z"}),
    ("POST", "/api/v2/backfills/dry_run", {"dag_id": "orders", "from_date": "2026-01-01T00:00:00Z", "to_date": "2026-01-02T00:00:00Z"}),
    ("POST", "/api/v2/assets/events", {"asset_id": 1}),
    ("PATCH", f"{RUN}/taskInstances/a", {"new_state": "success"}),
    ("PUT", f"{RUN}/taskInstances/a/state-store/key", {"value": "mine"}),
]  # fmt: skip


def names(cases):
    return [f"{method} {path} {json.dumps(body) if body else ''}"[:100] for method, path, body in cases]


def how(body):
    return {} if body is None else {"json": body}


@pytest.mark.parametrize(("method", "path", "body"), FORBIDDEN, ids=names(FORBIDDEN))
@pytest.mark.parametrize("role", ["viewer", "editor"])
def test_what_only_admins_may(deployment, issuer, role, method, path, body):
    answer = deployment.ask(issuer.platform.token(role), method, path, **how(body))
    assert answer.status_code == 403, answer.text
    assert PASSWORD not in answer.text
    assert VALUE not in answer.text


@pytest.mark.parametrize(("method", "path", "body"), ONLY_FOR_EDITORS, ids=names(ONLY_FOR_EDITORS))
def test_what_viewers_may_not(deployment, issuer, method, path, body):
    assert deployment.ask(issuer.platform.token("viewer"), method, path, **how(body)).status_code == 403


def test_an_editor_may_run_dags(deployment, issuer):
    token = issuer.platform.token("editor")
    body = {"logical_date": None, "conf": {"password": "{{ conn.bank.password }}"}}
    answer = deployment.ask(token, "POST", "/api/v2/dags/orders/dagRuns", json=body)
    assert answer.status_code == 200, answer.text
    assert PASSWORD not in deployment.ask(token, "GET", "/api/v2/dags/orders/dagRuns").text, (
        "nothing renders conf"
    )
    assert deployment.status(token, "PATCH", "/api/v2/dags/orders", json={"is_paused": False}) == 200
    links = deployment.ask(token, "GET", f"{RUN}/taskInstances/a/links")
    assert links.status_code == 200


def test_an_admin_may_what_the_others_may_not(deployment, issuer):
    token = issuer.platform.token("admin")
    assert deployment.status(token, path="/api/v2/connections/bank") == 200
    assert deployment.ask(token, "GET", "/api/v2/variables/safe").json()["value"] == VALUE
    assert PASSWORD not in deployment.ask(token, "GET", "/api/v2/connections/bank").text, "not even to admins"


def test_the_test_of_a_connection_is_found_by_admins_only(deployment, issuer):
    body = {**CONNECTION, "connection_id": "fresh"}
    asked = deployment.ask(
        issuer.platform.token("admin"), "POST", "/api/v2/connections/enqueue-test", json=body
    )
    assert asked.status_code == 202, asked.text
    found = []
    for role in ("viewer", "editor", "admin"):
        headers = {
            "authorization": f"Bearer {issuer.platform.token(role)}",
            "airflow-connection-test-token": asked.json()["token"],
        }
        found.append(
            http("GET", f"{deployment.url}/api/v2/connections/enqueue-test", headers=headers).status_code
        )
    assert found == [404, 404, 200]


@pytest.mark.parametrize("role", ["viewer", "editor"])
def test_no_list_that_they_may_read_has_a_credential(deployment, issuer, role):
    token = issuer.platform.token(role)
    pages = [
        "/ui/dags",
        "/ui/config",
        "/api/v2/dags",
        f"{RUN}",
        f"{RUN}/taskInstances",
        "/api/v2/dagSources/orders",
    ]
    for page in pages:
        answer = deployment.ask(token, "GET", page)
        assert answer.status_code == 200
        assert PASSWORD not in answer.text
        assert VALUE not in answer.text


def test_the_menu_of_each(deployment, issuer):
    def menu(role):
        return set(
            deployment.ask(issuer.platform.token(role), "GET", "/ui/auth/menus").json()[
                "authorized_menu_items"
            ]
        )

    everyone = {"Dags", "Assets", "Docs", "Required Actions", "Deadlines"}
    assert menu("viewer") == menu("editor") == everyone
    assert menu("admin") >= everyone | {"Connections", "Variables", "Pools", "XComs", "Config", "Audit Log"}
