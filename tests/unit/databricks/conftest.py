import pytest

from astronomer.providers.databricks.hooks import credentials


@pytest.fixture(autouse=True)
def kept(monkeypatch):
    """No token that another test has fetched."""
    monkeypatch.setattr(credentials, "_kept", {})
    return credentials._kept
