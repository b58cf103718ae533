"""Where the list of releases comes from, and everything that a server or a disk may do wrong."""

from __future__ import annotations

import gzip
import logging
import socket
import ssl
import threading
import time
from functools import partial

import airflow.configuration  # noqa: F401  # it takes the root logger over, and a test's handler away, when it is loaded
import pytest
import trustme

from astronomer.runtime import source as module
from astronomer.runtime.source import Source, fetch, running
from astronomer.runtime.versions import MAX_BYTES, ManifestError, Tag
from tests.unit.runtime.releases import entry, text
from tests.unit.servers import only_the_whole_is_limited, serving

BUNDLED = text({"3.3-1": entry()})
NEWER = text({"3.3-1": entry(), "3.3-2": entry()})
DAY = 86400.0


@pytest.fixture
def server():
    with serving(NEWER.encode()) as one:
        yield one


class Now:
    def __init__(self):
        self.seconds = 1_800_000_000.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def now():
    return Now()


@pytest.fixture
def known(tmp_path, now):
    """A source with the bundled list; arguments change it."""

    def of(url="", **changes):
        path = tmp_path / "versions.json"
        path.write_text(BUNDLED)
        return Source(
            **{"bundled": path, "url": url, "interval": DAY, "folder": tmp_path, "now": now, **changes}
        )

    return of


def tags(source):
    return [str(tag) for tag in source.manifest().releases]


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    monkeypatch.setattr(module, "fetch", partial(fetch, timeout=60.0))


@pytest.fixture(autouse=True)
def _log(caplog):
    caplog.set_level(logging.DEBUG, logger=module.__name__)


def lines(caplog):
    return [record.getMessage() for record in caplog.records if record.name == module.__name__]


class TestNoUrl:
    def test_nobody_is_asked(self, known, monkeypatch, tmp_path):
        monkeypatch.setattr(socket, "socket", None)
        assert tags(known()) == ["3.3-1"]
        assert [path.name for path in tmp_path.iterdir()] == ["versions.json"]

    def test_outside_an_image_nothing_is_known(self, known, caplog):
        assert tags(known(bundled=None)) == []
        assert lines(caplog) == []

    @pytest.mark.parametrize(("words", "why"), [(None, "FileNotFoundError"), ("{", "the file: Invalid JSON")])
    def test_a_file_that_cannot_be_read_is_one_line(self, known, caplog, tmp_path, words, why):
        source = known(bundled=tmp_path / "other.json")
        if words:
            (tmp_path / "other.json").write_text(words)
        assert tags(source) == []
        (line,) = lines(caplog)
        assert line.startswith(f"Could not read the image's own manifest: {why}")


class TestAFile:
    @pytest.mark.parametrize("form", ["{}", "file://{}", "file://localhost{}"])
    def test_is_read_each_time(self, known, tmp_path, form):
        path = tmp_path / "a list.json"
        path.write_text(NEWER)
        source = known(form.format(str(path).replace(" ", "%20") if ":" in form else path))
        assert tags(source) == ["3.3-1", "3.3-2"]
        path.write_text(text({"3.3-3": entry()}))
        assert tags(source) == ["3.3-1", "3.3-3"]


class TestAServer:
    def test_is_asked_once_a_day(self, known, server, now, tmp_path):
        for _ in range(3):
            assert tags(known(server.url)) == ["3.3-1", "3.3-2"]
        now.seconds += DAY - 1
        assert tags(known(server.url)) == ["3.3-1", "3.3-2"]
        assert server.asked == 1
        server.body = text({"3.3-3": entry()}).encode()
        now.seconds += 1
        assert tags(known(server.url)) == ["3.3-1", "3.3-3"]
        assert server.asked == 2

    @pytest.mark.parametrize("status", [404, 500, 204])
    def test_a_failure_counts_and_the_last_answer_stays(self, known, server, now, status, caplog):
        tags(known(server.url))
        server.status = status
        now.seconds += DAY
        for _ in range(3):
            assert tags(known(server.url)) == ["3.3-1", "3.3-2"]
        assert server.asked == 2
        words = f"Got no manifest from [astronomer_runtime] versions_url: the server answered with status {status}"
        assert lines(caplog) == [words] * 3
        server.status = 200
        now.seconds += DAY
        assert tags(known(server.url)) == ["3.3-1", "3.3-2"]
        assert len(lines(caplog)) == 3

    def test_a_first_failure_counts(self, known, server):
        server.status = 503
        assert tags(known(server.url)) == tags(known(server.url)) == ["3.3-1"]
        assert server.asked == 1

    def test_a_clock_that_went_back(self, known, server, now):
        tags(known(server.url))
        now.seconds -= 10 * DAY
        tags(known(server.url))
        assert server.asked == 2

    def test_another_url_is_another_answer(self, known, server):
        tags(known(server.url))
        tags(known(server.url + "?channel=stable"))
        assert server.asked == 2

    def test_an_answer_that_was_cut_off_on_disk(self, known, server, now, tmp_path, caplog):
        tags(known(server.url))
        (kept,) = tmp_path.glob("runtime-versions-*")
        kept.write_bytes(kept.read_bytes()[:50])
        assert tags(known(server.url)) == ["3.3-1"]
        now.seconds += DAY
        assert tags(known(server.url)) == ["3.3-1", "3.3-2"]

    def test_a_folder_that_cannot_be_written(self, known, server, tmp_path, monkeypatch):
        def refused(path, *arguments, **more):
            raise PermissionError(13, "denied", str(path))

        source = known(server.url, bundled=None)
        monkeypatch.setattr(type(tmp_path), "open", refused)
        assert tags(source) == ["3.3-1", "3.3-2"]

    def test_a_folder_that_is_not_there(self, known, server, tmp_path):
        assert tags(known(server.url, folder=tmp_path / "none")) == ["3.3-1"]
        assert server.asked == 0

    def test_who_comes_during_a_question_waits_for_its_answer(self, known, server):
        server.held = True
        found = []
        first, second = (threading.Thread(target=lambda: found.append(tags(known(server.url)))) for _ in "12")
        first.start()
        assert server.arrived.wait(30)
        second.start()
        second.join(0.3)  # long enough to come back with nothing
        server.released.set()
        first.join(30)
        second.join(30)
        assert found == [["3.3-1", "3.3-2"]] * 2
        assert server.asked == 1


class TestABadServer:
    def asked(self, url, caplog, known):
        assert tags(known(url)) == ["3.3-1"]
        return lines(caplog)[0].rpartition(": ")[2]

    def test_no_manifest(self, known, server, caplog):
        server.body = b"<html>Log in</html>"
        self.asked(server.url, caplog, known)
        assert "the file: Invalid JSON" in lines(caplog)[0]

    @pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
    def test_too_much(self, known, server, caplog, packed):
        server.body = b" " * (MAX_BYTES + 1)
        if packed:
            server.body, server.headers = gzip.compress(server.body), {"Content-Encoding": "gzip"}
        assert self.asked(server.url, caplog, known) == f"the answer is longer than {MAX_BYTES} bytes"
        with pytest.raises(ManifestError, match="longer"):
            module.fetch(server.url)

    def test_a_redirect(self, known, server, caplog):
        server.status, server.headers = 302, {"Location": server.url}
        assert self.asked(server.url, caplog, known) == "the server answered with status 302"
        assert server.asked == 1

    def test_byte_by_byte(self, server, monkeypatch):
        only_the_whole_is_limited(monkeypatch)
        server.drip = 0.05
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            fetch(server.url, timeout=0.3)
        assert time.monotonic() - started < 30  # and not the minutes that the whole takes

    @pytest.mark.parametrize(
        ("name", "value"),
        [("ALL_PROXY", "socks5://127.0.0.1:1"), ("HTTPS_PROXY", "ftp://127.0.0.1:1"), ("NO_PROXY", "[::x")],
    )
    def test_a_proxy_that_cannot_be_used(self, name, value, known, caplog, monkeypatch):
        for other in ("all_proxy", "https_proxy", "http_proxy", "no_proxy"):
            monkeypatch.delenv(other, raising=False)
            monkeypatch.delenv(other.upper(), raising=False)
        monkeypatch.setenv(name, value)
        assert self.asked("https://127.0.0.1:1/", caplog, known) in {
            "ImportError",
            "ValueError",
            "InvalidURL",
        }

    def test_nobody_there(self, known, caplog):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{free.getsockname()[1]}/"
            assert self.asked(url, caplog, known) == "ConnectError"

    @pytest.mark.parametrize(
        "url",
        [
            "http://example.com/versions.json",
            "http://169.254.169.254/latest",
            "http://127.0.0.1.example.com/",
            "ftp://example.com/versions.json",
            "file://server/versions.json",
            "https://",
            "versions.json",
            "https://user:s3cret@example.com/versions.json",
            "http://[::1",
            "https://example.com:port/",
        ],
    )
    def test_a_url_that_is_refused(self, url, known, caplog, monkeypatch):
        monkeypatch.setattr(socket, "getaddrinfo", None)
        assert tags(known(url)) == ["3.3-1"]
        assert "s3cret" not in caplog.text
        assert len(lines(caplog)) == 1
        with pytest.raises(ManifestError):
            fetch(url)


class TestCertificates:
    @pytest.fixture
    def authority(self):
        return trustme.CA()

    @pytest.fixture
    def https(self, authority):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        with serving(NEWER.encode(), context) as one:
            yield one

    def test_one_that_nobody_vouches_for(self, https, known, caplog):
        assert tags(known(https.url)) == ["3.3-1"]
        assert lines(caplog)[0].endswith("versions_url: ConnectError")
        assert https.asked == 0

    def test_one_of_your_own(self, https, authority, known, monkeypatch, tmp_path):
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        assert tags(known(https.url)) == ["3.3-1", "3.3-2"]


class TestConfigured:
    @pytest.mark.parametrize(
        ("text", "seconds"), [("3600", 3600), ("0", 0), ("daily", DAY), ("", DAY), ("-1", DAY), ("nan", DAY)]
    )
    def test_the_interval(self, text, seconds, monkeypatch, caplog):
        monkeypatch.setenv("AIRFLOW__ASTRONOMER_RUNTIME__CHECK_INTERVAL", text)
        assert Source.configured().interval == seconds
        assert len(lines(caplog)) == (seconds == DAY)


class TestRunning:
    def test_in_an_image(self, monkeypatch):
        monkeypatch.setenv("ASTRONOMER_RUNTIME_VERSION", "3.3-1-base")
        assert running() == Tag(3, 3, 1, base=True)

    @pytest.mark.parametrize("text", [None, ""])
    def test_outside(self, monkeypatch, text):
        monkeypatch.delenv("ASTRONOMER_RUNTIME_VERSION", raising=False)
        if text is not None:
            monkeypatch.setenv("ASTRONOMER_RUNTIME_VERSION", text)
        assert running() is None

    def test_something_else(self, monkeypatch):
        monkeypatch.setenv("ASTRONOMER_RUNTIME_VERSION", "latest")
        with pytest.raises(ValueError, match="'latest' is no tag"):
            running()
