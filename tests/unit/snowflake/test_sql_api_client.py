import asyncio

from astronomer.deferral._compat import PlainConnection
from astronomer.lab.tls import issue
from astronomer.providers.snowflake.hooks.sql_api import ReadSqlApiHook, SqlApiClient
from tests.sockets import MuteServer, nothing_left


class UnsignedHook(ReadSqlApiHook):
    def get_headers(self):
        return {}


def test_of_a_look_that_is_given_up_nothing_is_left(tmp_path, monkeypatch):
    certificates = issue(tmp_path, "server")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca))

    async def main():
        extra = {"account": "mute", "host": "localhost", "port": server.port}
        connection = PlainConnection("mute", "me", "secret", None, None, None, extra)
        client = SqlApiClient(UnsignedHook(connection))
        looking = asyncio.ensure_future(client.look("handle"))
        await asyncio.to_thread(server.asked.wait, 20)
        assert not looking.done(), looking
        looking.cancel()
        await asyncio.wait({looking})
        await client.close()

    with MuteServer(certificates) as server, nothing_left():
        asyncio.run(main())
