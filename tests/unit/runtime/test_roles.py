"""What each role may do, and what a deployment can add."""

from __future__ import annotations

import json

import pytest
from airflow.api_fastapi.auth.managers.models.resource_details import AccessView, DagAccessEntity
from airflow.api_fastapi.common.types import MenuItem

from astronomer.runtime import roles
from astronomer.runtime.roles import METHODS, RESOURCES, Policy, PolicyError, is_privileged

POLICY = Policy()


def may(role, resource, method="GET"):
    return POLICY.allows([role], resource, method)


@pytest.mark.parametrize("resource", RESOURCES)
@pytest.mark.parametrize("method", METHODS)
def test_each_role_may_what_the_one_below_may(resource, method):
    assert (
        may("viewer", resource, method) <= may("editor", resource, method) <= may("admin", resource, method)
    )


@pytest.mark.parametrize("resource", RESOURCES)
def test_a_viewer_changes_nothing(resource):
    assert not any(may("viewer", resource, method) for method in ("POST", "PUT", "DELETE"))


@pytest.mark.parametrize(
    "resource",
    [
        "connection",
        "variable",
        "configuration",
        "dag.audit_log",
        "view.plugins",
        "view.providers",
        "team",
        "view.triggers",
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_credentials_and_the_installation_are_for_admins(resource, method):
    assert not may("editor", resource, method)
    assert may("admin", resource, method)


@pytest.mark.parametrize("resource", ["pool", "dag.xcom"])
def test_these_are_read_by_all_and_changed_by_admins(resource):
    assert may("viewer", resource)
    assert not any(may("editor", resource, method) for method in ("POST", "PUT", "DELETE"))
    assert is_privileged(resource, "PUT")


@pytest.mark.parametrize(
    "resource", ["view.audit_logs_all", "dag.new", "custom_view.Costs", "new", "", "DAG", "dag "]
)
@pytest.mark.parametrize("method", [*METHODS, "MENU", "can_do", "get", ""])
def test_what_has_no_name_yet_is_for_admins(resource, method):
    assert not may("editor", resource, method)
    assert may("admin", resource, method)


def test_every_resource_of_this_airflow_has_a_name():
    """A new one is for admins until somebody has decided; that is what fails here."""
    known = {f"view.{view.value.lower()}" for view in AccessView}
    known |= {f"dag.{entity.value.lower()}" for entity in DagAccessEntity}
    assert known <= set(RESOURCES)


def test_every_item_of_the_menu_has_a_place():
    assert {item.name for item in MenuItem} <= set(roles._MENU)
    assert not POLICY.shows(["editor"], "SOMETHING_NEW")
    assert POLICY.shows(["admin"], "SOMETHING_NEW")


@pytest.mark.parametrize(("theirs", "ours"), [
    (["viewer"], ("viewer",)), (["Viewer"], ("viewer",)), (["User"], ("editor",)), (["Op"], ("admin",)),
    (["Admin"], ("admin",)), (["viewer", "admin", "x"], ("admin", "viewer")), ([], ()), (["ADMIN"], ()), (["root"], ()),
    (["a", "d", "m", "i", "n"], ()), (["admin "], ()), (["viewer,admin"], ()),
])  # fmt: skip
def test_the_platforms_names(theirs, ours):
    assert POLICY.of(theirs) == ours


def test_several_roles_give_what_each_gives():
    assert POLICY.allows(["viewer", "admin"], "connection", "GET")


def test_a_role_that_no_longer_exists_gives_nothing():
    assert not POLICY.allows(["operator"], "dag", "GET")


def test_a_map_has_a_name():
    assert Policy().digest == Policy.configured().digest
    one, other = (
        Policy.configured(json.dumps(names))
        for names in ({"a": "viewer", "b": "admin"}, {"b": "admin", "a": "viewer"})
    )
    assert one.digest == other.digest != Policy.configured('{"a": "admin", "b": "admin"}').digest


class TestConfigured:
    def policy(self, tmp_path, described, role_map=None):
        file = tmp_path / "roles.json"
        file.write_text(described if isinstance(described, str) else json.dumps(described))
        return Policy.configured(None if role_map is None else json.dumps(role_map), file)

    def problems(self, tmp_path, described, role_map=None):
        with pytest.raises(PolicyError) as caught:
            self.policy(tmp_path, described, role_map)
        return str(caught.value)

    def test_a_role_of_ones_own(self, tmp_path):
        policy = self.policy(
            tmp_path, {"operator": {"includes": "viewer", "permissions": ["pool:*", "dag.run:POST"]}}
        )
        assert policy.of(["operator"]) == ("operator",)
        assert policy.allows(["operator"], "pool", "DELETE")
        assert policy.allows(["operator"], "dag.run", "POST")
        assert policy.allows(["operator"], "dag", "GET")
        assert not policy.allows(["operator"], "dag", "PUT")
        assert not policy.allows(["operator"], "connection", "GET")
        assert not policy.allows(["operator"], "new", "GET")

    def test_it_may_be_smaller_than_a_viewer(self, tmp_path):
        policy = self.policy(
            tmp_path, {"trigger": {"permissions": ["dag.run:POST", "custom_view.Costs:can_see"]}}
        )
        assert not policy.allows(["trigger"], "dag", "GET")
        assert policy.allows(["trigger"], "custom_view.Costs", "can_see")
        assert not policy.allows(["trigger"], "custom_view.Other", "can_see")

    def test_a_map_replaces_the_names_that_are_known_otherwise(self, tmp_path):
        policy = Policy.configured('{"DEPLOYMENT_EDITOR": "editor"}')
        assert policy.of(["DEPLOYMENT_EDITOR", "admin", "Admin"]) == ("editor",)
        policy = self.policy(tmp_path, {"operator": {}}, {"ops": "operator"})
        assert policy.of(["ops", "operator"]) == ("operator",)

    @pytest.mark.parametrize(("described", "words"), [
        ("no JSON", "is no JSON"), ([], "is no JSON object"), ({"a": []}, "'a' is no object"), ({"a": {"x": 1}}, "is no object"),
        ({"admin": {}}, "'admin' is a name"), ({"Op": {}}, "'Op' is a name"), ({"a": {"includes": "admin"}}, "includes 'admin'"),
        ({"a": {"includes": "a"}}, "includes 'a'"), ({"a": {"permissions": "pool:GET"}}, "no list"),
        ({"a": {"permissions": ["pool"]}}, "resource:method"), ({"a": {"permissions": [1]}}, "resource:method"),
        ({"a": {"permissions": ["poool:GET"]}}, "unknown resource 'poool'"), ({"a": {"permissions": ["*:GET"]}}, "unknown resource"),
        ({"a": {"permissions": ["pool:READ"]}}, "unknown method 'READ'"), ({"a": {"permissions": ["custom_view.:GET"]}}, "unknown resource"),
        ({"a": {"includes": []}}, "includes []"),
    ])  # fmt: skip
    def test_what_makes_no_sense_is_told(self, tmp_path, described, words):
        assert words in self.problems(tmp_path, described)

    @pytest.mark.parametrize(("text", "words"), [
        ("x", "role_map is no JSON"), ("[]", "no JSON object"), ('{"a": "root"}', "'a' stands for 'root'"), ('{"a": ["viewer"]}', "stands for"),
    ])  # fmt: skip
    def test_so_is_a_map(self, text, words):
        with pytest.raises(PolicyError, match=words.replace("'", ".")):
            Policy.configured(text)

    def test_a_name_that_is_written_twice(self, tmp_path):
        """The last one would count, whoever has written the first."""
        twice = '{"a": {"includes": "viewer", "includes": "editor"}, "b": {}, "b": {"permissions": ["pool:READ"]}}'
        said = self.problems(tmp_path, twice, {"c": "d"})
        assert all(f"json) has {name} more than once" in said for name in ("'includes'", "'b'"))
        assert "'READ'" in said
        assert "'d'" in said
        with pytest.raises(PolicyError, match="role_map has 'a' more than once"):
            Policy.configured('{"a": "admin", "a": "viewer"}')

    def test_everything_is_told_at_once(self, tmp_path):
        said = self.problems(
            tmp_path, {"a": {"permissions": ["x:GET", "pool:READ"]}, "admin": {}}, {"b": "c"}
        )
        assert all(word in said for word in ("'x'", "'READ'", "'admin'", "'c'"))

    def test_a_file_that_is_not_there(self, tmp_path):
        with pytest.raises(PolicyError, match="cannot be read"):
            Policy.configured(None, tmp_path / "none.json")
