"""TLS to a provider: the system's authorities, or the files that the provider's block names."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import suppress
from functools import cache

from proxy.routing.table import Provider

NO_CERTIFICATE = "a key is of no use without client_cert"
UNUSABLE = "this file cannot be used: {reason}"


def context_of(provider: Provider) -> ssl.SSLContext | None:
    """None where the system's authorities do, and no certificate is shown. Raises OSError or ValueError (ssl's errors
    are the first) where a file is unusable. Names are always checked, and nothing older than TLS 1.2 is spoken."""
    if not (provider.ca_file or provider.client_cert):
        return None
    context = ssl.create_default_context(cafile=provider.ca_file)
    if provider.client_cert:
        _load_certificate(context, provider.client_cert, provider.client_key)
    return context


@cache
def system() -> ssl.SSLContext:
    """The system's authorities, read once; OpenSSL takes 20 ms for that. As aiohttp makes its own."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(("http/1.1",))
    return context


def _load_certificate(context: ssl.SSLContext, certificate: str, key: str | None) -> None:
    context.load_cert_chain(certificate, key, password=_no_password)


def _no_password() -> str:
    """Instead of OpenSSL's own question at the terminal, which nobody would answer."""
    raise ValueError("the key is encrypted: it has to be readable without a passphrase")


def problems(provider: Provider) -> Iterator[tuple[str, str]]:
    """(key of the block, message) of every file that cannot be used."""
    if provider.ca_file:
        try:
            ssl.create_default_context(cafile=provider.ca_file)
        except (OSError, ValueError) as exc:
            yield "ca_file", UNUSABLE.format(reason=_reason(exc))
    if provider.client_key and not provider.client_cert:
        yield "client_key", NO_CERTIFICATE
    if provider.client_cert:
        try:
            _load_certificate(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), provider.client_cert, provider.client_key)
        except (OSError, ValueError) as exc:
            yield "client_cert", UNUSABLE.format(reason=_reason(exc))


def _reason(exc: OSError | ValueError) -> str:
    """OpenSSL's own words are for its authors."""
    if isinstance(exc, ssl.SSLError):
        return "it holds no certificate in PEM, or the key does not belong to it"
    return (exc.strerror or "unknown").lower() if isinstance(exc, OSError) else str(exc)


def stamps(provider: Provider) -> tuple[tuple[int, int], ...]:
    """Changes when a file is renewed under its old name, so that a reload opens new connections with it."""
    found = []
    for path in (provider.ca_file, provider.client_cert, provider.client_key):
        if path:
            with suppress(OSError):
                status = os.stat(path)
                found.append((status.st_mtime_ns, status.st_size))
    return tuple(found)
