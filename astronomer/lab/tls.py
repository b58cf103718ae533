"""Certificates for a stand-in: one private authority per lab, and a bundle that also trusts the public ones."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import certifi
import trustme

__all__ = ["Certificates", "control_key", "issue"]

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Certificates:
    """Where the certificates of one lab are.

    :param ca: the lab's own authority, PEM.
    :param bundle: the public authorities of ``certifi`` and the lab's own, PEM.
    :param chain: the server's certificate, PEM.
    :param key: the server's private key, PEM, readable by its owner only.
    """

    ca: Path
    bundle: Path
    chain: Path
    key: Path

    @property
    def control_key(self) -> str:
        """What proves to a stand-in that whoever steers it may read the private key of its authority."""
        return control_key(self.ca)

    def private_keys(self) -> dict[str, Path]:
        """Return the files that only their owner may read, by what they hold."""
        return {
            "private key of the authority": self.ca.with_name("ca.key"),
            "private key of the server": self.key,
        }

    def client_env(self) -> dict[str, str]:
        """Return the variables that make ``requests`` and ``ssl`` trust the lab and every public authority."""
        return {"REQUESTS_CA_BUNDLE": str(self.bundle), "SSL_CERT_FILE": str(self.bundle)}


def control_key(ca: Path) -> str:
    """Return the control key of the lab with this authority; needs the right to read the key beside it."""
    return hashlib.sha256(ca.with_name("ca.key").read_bytes()).hexdigest()


def issue(directory: Path, service: str, *names: str) -> Certificates:
    """Return the certificates kept in ``directory``, made on the first call and reused afterwards.

    All services of one directory share one authority, so that one bundle is enough for their clients.

    :param service: whose certificate it is.
    :param names: host names the certificate is valid for, besides the loopback ones.
    """
    found = Certificates(
        ca=directory / "ca.pem",
        bundle=directory / "ca-bundle.pem",
        chain=directory / f"{service}.pem",
        key=directory / f"{service}.key",
    )
    authority = _authority(found.ca, directory / "ca.key")
    if not (found.chain.is_file() and found.key.is_file()):
        leaf = authority.issue_cert(*LOOPBACK_NAMES, *names)
        found.chain.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        _write_secret(found.key, leaf.private_key_pem.bytes())
    found.bundle.write_bytes(Path(certifi.where()).read_bytes() + b"\n" + found.ca.read_bytes())
    return found


def _authority(certificate: Path, key: Path) -> trustme.CA:
    if certificate.is_file() and key.is_file():
        return trustme.CA.from_pem(certificate.read_bytes(), key.read_bytes())
    authority = trustme.CA(organization_name="astronomer.lab")
    certificate.write_bytes(authority.cert_pem.bytes())
    _write_secret(key, authority.private_key_pem.bytes())
    return authority


def _write_secret(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)
