"""Reading the program's modules fast: a daemon that is restarted has clients that wait.

What is not needed while they are read is left out. Python looks for cycles all the time, among objects that nearly all
stay: not here (75 ms; the few that do not stay are 1.5 MB). aiohttp reads the machine's certificate authorities twice
when it is imported, for two TLS contexts that nobody uses (45 ms, 2 MB): whoever speaks TLS here says with what
(`server.upstream.tls`), and one that did not would trust nobody. It reads what the machine knows of names of files,
too, and no file is served here.
"""

from __future__ import annotations

import gc
import linecache
import mimetypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

# Where OpenSSL looks for authorities.
NOWHERE = {"SSL_CERT_FILE": "/dev/null", "SSL_CERT_DIR": "/dev/null"}


@contextmanager
def reading_modules(*, stay: bool) -> Iterator[None]:
    """`stay`: what is read now is never looked through again."""
    before = {name: os.environ.get(name) for name in NOWHERE}
    os.environ.update(NOWHERE)
    mimetypes.knownfiles.clear()
    thresholds = gc.get_threshold()
    gc.set_threshold(0)
    try:
        yield
    finally:
        linecache.clearcache()  # 1 MB: attrs keeps the text of all that it makes, for tracebacks that lead there
        if stay:
            gc.freeze()
        gc.set_threshold(*thresholds)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
