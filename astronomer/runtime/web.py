"""One question over the network, with one limit for all of it. Imports no Airflow."""

from __future__ import annotations

import asyncio

import httpx

__all__ = ["AnswerError", "get"]


class AnswerError(ValueError):
    """The server has answered with something else than was asked for; the message is in words of ours alone."""


def get(url: str, *, seconds: float, most: int) -> bytes:
    """Get the bytes of a JSON document, with the certificate verified, without following anyone elsewhere.

    Not for a thread in which an event loop runs.

    :param seconds: for everything, headers that drip included, but a look-up of the name that hangs.
    :param most: bytes that the answer may have.
    :raises AnswerError: the answer is not 200, or it is too long.
    :raises httpx.HTTPError: the server cannot be reached or trusted.
    :raises TimeoutError: it took too long.
    """
    try:
        return asyncio.run(asyncio.wait_for(_get(url, seconds, most), seconds))
    except asyncio.TimeoutError as error:  # of Python 3.10, another one than the built-in
        raise TimeoutError(f"the server has not ended its answer within {seconds:g} s") from error


async def _get(url: str, seconds: float, most: int) -> bytes:
    body = bytearray()
    wanted = {"accept": "application/json"}
    async with (
        httpx.AsyncClient(follow_redirects=False, timeout=seconds) as client,
        client.stream("GET", url, headers=wanted) as answer,
    ):
        if answer.status_code != 200:
            raise AnswerError(f"the server answered with status {answer.status_code}")
        async for part in answer.aiter_bytes():
            body += part
            if len(body) > most:
                raise AnswerError(f"the answer is longer than {most} bytes")
    return bytes(body)
