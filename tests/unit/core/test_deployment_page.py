"""Every connection that the page shows is read, and every field of it counts."""

import json

import pytest

from astronomer.providers.core.hooks.deployment_login import Deployment
from tests.docs.pages import blocks
from tests.unit.core.deployments import connection

SHOWN = [block for block in blocks() if block.kind == "deployment_connection"]


@pytest.mark.parametrize("block", SHOWN, ids=lambda block: block.mark)
def test_a_connection(block):
    shown = json.loads(block.body)
    assert shown.pop("conn_type") == "Astro Cloud"
    extra = shown.pop("extra", {})
    found = Deployment.of(connection(extra_dejson=extra, **shown))
    assert found.address == shown["host"]
    secret = shown["password"]
    match block.argument("auth"):
        case "token":
            assert (found.token, found.login, found.oauth) == (secret, "", {})
        case "password":
            assert (found.login, found.secret, found.oauth) == (shown["login"], secret, {})
        case "oauth":
            assert (found.login, found.secret, found.oauth) == (shown["login"], secret, extra)


def test_there_are_some():
    assert len(SHOWN) == 3
