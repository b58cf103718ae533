import asyncio

from astronomer.lab.tls import issue
from astronomer.providers.databricks.hooks.transport import Transport
from tests.sockets import MuteServer, nothing_left


def test_of_a_request_that_is_given_up_nothing_is_left(tmp_path, monkeypatch):
    certificates = issue(tmp_path, "server")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca))

    async def main():
        transport = Transport({}, "test")
        asking = asyncio.ensure_future(transport.send("GET", f"https://localhost:{server.port}/api"))
        await asyncio.to_thread(server.asked.wait, 20)
        assert not asking.done(), asking
        asking.cancel()
        await asyncio.wait({asking})
        await transport.close()

    with MuteServer(certificates) as server, nothing_left():
        asyncio.run(main())
