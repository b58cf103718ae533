"""A local platform: it publishes its keys, signs tokens for a viewer, an editor and an admin, and has a page to log in.

It is for trying the security manager of a Runtime image in a browser and for its tests. Unlike the other stand-ins it
speaks plain HTTP, as a browser does not trust a certificate that nobody knows. It knows no passwords: whoever uses this
machine may be anybody, so it must guard nothing of value. It listens on the loopback interface only.
"""

from astronomer.lab.issuer.platform import CLAIMS, Platform
from astronomer.lab.issuer.server import IssuerServer

__all__ = ["CLAIMS", "IssuerServer", "Platform"]
