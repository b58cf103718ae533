"""The how-to's Dockerfile on the base image: a private index whose password stays outside the image."""

import base64
import re
import shutil
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.docs.pages import blocks
from tests.image.conftest import ROOT, built
from tools.image.__main__ import tag
from tools.image.container import Container

PASSWORD = "the-password-of-the-index"
WHEEL = "orders_private-1.0-py3-none-any.whl"
INFO = "orders_private-1.0.dist-info"


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """An index that has one package, for who knows the password: its address, with it."""
    wheel = tmp_path_factory.mktemp("wheel") / WHEEL
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("orders_private.py", "FROM = 'the private index'\n")
        archive.writestr(f"{INFO}/METADATA", "Metadata-Version: 2.1\nName: orders-private\nVersion: 1.0\n")
        archive.writestr(f"{INFO}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{INFO}/RECORD", f"orders_private.py,,\n{INFO}/METADATA,,\n{INFO}/WHEEL,,\n")
    wanted = "Basic " + base64.b64encode(f"team:{PASSWORD}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            known = self.headers.get("Authorization") == wanted
            self.send_response(200 if known else 401)
            if not known:
                self.send_header("WWW-Authenticate", 'Basic realm="index"')
            self.send_header(
                "Content-Type", "text/html" if self.path.endswith("/") else "application/octet-stream"
            )
            self.end_headers()
            if known:
                page = f'<a href="/{WHEEL}">{WHEEL}</a>'.encode()
                self.wfile.write(page if self.path.endswith("/") else wheel.read_bytes())

        def log_message(self, *_):
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://team:{PASSWORD}@127.0.0.1:{server.server_port}/simple/"
        server.shutdown()


@pytest.fixture
def project(tmp_path, release):
    """A project with the how-to's own Dockerfile, and the files that a project has."""
    (recipe,) = [
        block.body for block in blocks() if block.language == "dockerfile" and "type=secret" in block.body
    ]
    assert recipe.startswith(f"FROM {tag(release, 'base')}\n")
    folder = tmp_path / "project"
    shutil.copytree(ROOT / "runtime" / "sample-project", folder)
    (folder / "Dockerfile").write_text(recipe)
    (folder / "requirements.txt").write_text("orders-private==1.0\n")
    return folder


def who_has(container, word):
    """The files with a word in them, in all of the container's file system."""
    words = f"grep -rl --exclude-dir=proc --exclude-dir=sys {word} / 2>/dev/null"
    return container.run("sh", "-c", words, options=("--user", "0")).stdout.split()


def test_the_package_is_there_and_the_password_is_not(engine, images, index, project):
    settings = project / "pip.conf"
    settings.write_text(f"[global]\nindex-url = {index}\n")
    with built(engine, project, "astronomer-runtime-private", secrets={"pip": settings}) as done:
        assert done.returncode == 0, done.stdout[-3000:]
        assert PASSWORD not in done.stdout
        assert PASSWORD not in str(engine.config("astronomer-runtime-private"))
        container = Container(engine, "astronomer-runtime-private")
        said = container.run("python", "-c", "import orders_private; print(orders_private.FROM)").stdout
        assert "the private index" in said
        assert who_has(container, "orders-private==1.0") == ["/usr/local/airflow/requirements.txt"]
        assert who_has(container, PASSWORD) == []


def test_without_the_secret_the_public_index_is_not_asked(engine, images, project):
    # What was built with the secret must not be taken from the cache.
    (project / "requirements.txt").write_text("orders-private==1.0  # another line\n")
    with built(engine, project, "astronomer-runtime-private-not") as done:
        assert done.returncode != 0
        assert re.search(r"secret|pip: not found", done.stdout), done.stdout[-3000:]
        assert "orders-private" not in done.stdout, "pip has looked for it"
