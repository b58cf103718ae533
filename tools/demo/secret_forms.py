"""Every form in which a secret may have been written."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import quote, quote_plus

__all__ = ["SHORTEST", "forms"]

SHORTEST = 4  # characters of a secret; a shorter one would be found everywhere
_SHORTEST_ENCODED = 8  # likewise of its base64 and hexadecimal forms, of which there are more
_LONG = 24  # a half of what is as long as this is a secret too
_NESTED = 3  # texts within texts: JSON in JSON, in a message that shows its repr
_PACKED = 2  # likewise within base64: Celery packs JSON that has JSON in it
_PEM = "-----BEGIN "
_PEM_FIRST = 20  # too short for halves
_PEM_LINE = 48  # characters; the last line of a key may be very short
_JWT = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+")

Escape = Callable[[str], str]
_ESCAPES: tuple[Escape, ...] = (
    lambda text: json.dumps(text)[1:-1],
    lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    lambda text: repr(text)[1:-1],
    lambda text: ascii(text)[1:-1],
    lambda text: text.replace("\\", "\\\\").replace("'", "\\'"),
    lambda text: repr(text.encode())[2:-1],
)


def forms(value: str, user: str = "") -> dict[bytes, str]:
    """Return what to look for -> the name of that form.

    :param value: a password, a token, or a whole private key in PEM, of which each line counts.
    :param user: whose password it is; the header of HTTP's basic authentication holds both.
    """
    if value.lstrip().startswith(_PEM):
        return {
            needle: f"a line of it, {form}" for line in _lines(value) for needle, form in forms(line).items()
        }
    found: dict[bytes, str] = {}
    for form, needle, shortest in _all(value, user):
        if len(needle) >= shortest:
            found.setdefault(needle, form)
    return found


def _lines(pem: str) -> Iterator[str]:
    """The body of a key; of its first line only the end, because the rest is the same in all keys of the kind."""
    body = [line.strip() for line in pem.strip().splitlines() if not line.startswith("-----")]
    yield from (line for line in body[1:] if len(line) >= _PEM_LINE)
    if body:
        yield body[0][-_PEM_FIRST:]


def _all(value: str, user: str) -> Iterator[tuple[str, bytes, int]]:
    data = value.encode()
    for form, text in _texts(value):
        yield form, text.encode(), SHORTEST
    for form, text in _halves(value):
        yield form, text.encode(), _LONG // 2
    for text in {value, *_escaped({value}, _PACKED)}:
        for form, needle in _base64(text.encode()):
            yield form, needle, _SHORTEST_ENCODED
    for form, needle in _base64(base64.b64encode(data)):
        yield f"{form}, twice", needle, 2 * _SHORTEST_ENCODED
    for text in (data.hex(), data.hex().upper()):
        yield "hexadecimal", text.encode(), _SHORTEST_ENCODED
    if user:
        for name, secret in ((user, value), (quote_plus(user), quote_plus(value))):
            pair = base64.b64encode(f"{name}:{secret}".encode())
            yield "HTTP basic", pair.rstrip(b"="), _SHORTEST_ENCODED


def _texts(value: str) -> Iterator[tuple[str, str]]:
    yield "plain", value
    for text in _escaped({value}, _NESTED):
        yield "escaped", text
    for text in {value, *_escaped({value}, 1)}:
        for encoded in _url(text):
            yield "URL-encoded", encoded
    for text in (
        html.escape(value),
        html.escape(value, quote=False),
        html.escape(value).replace("&#x27;", "&#39;"),
    ):
        yield "HTML-escaped", text
    yield "SQL literal", value.replace("'", "''")


def _escaped(texts: set[str], depth: int) -> set[str]:
    found: set[str] = set()
    for _ in range(depth):
        texts = {escape(text) for escape in _ESCAPES for text in texts} - found
        found |= texts
    return found


def _url(text: str) -> Iterable[str]:
    for encode, safe in ((quote, ""), (quote, "/"), (quote, "/:@!$&'()*+,;=~"), (quote_plus, "")):
        encoded = encode(text, safe=safe)
        yield encoded
        yield re.sub("%[0-9A-F]{2}", lambda found: found.group().lower(), encoded)
        yield quote(encoded, safe="")


def _halves(value: str) -> Iterator[tuple[str, str]]:
    """What a message that was cut off shows; the first parts of a JSON web token are no secret, its signature is."""
    if _JWT.fullmatch(value):
        yield "its signature", value.rpartition(".")[2]
    elif len(value) >= _LONG:
        yield "a half of it", value[: len(value) // 2]
        yield "a half of it", value[len(value) // 2 :]


def _base64(data: bytes) -> Iterator[tuple[str, bytes]]:
    """What stands in any longer base64 text that has the data in it, for each of the three alignments."""
    for form, encode in (("base64", base64.b64encode), ("URL-safe base64", base64.urlsafe_b64encode)):
        for before in range(3):
            whole = encode(b"\0" * before + data + b"\0" * 3)
            first, last = -(-before * 8 // 6), (before + len(data)) * 8 // 6
            yield form, whole[first:last]
