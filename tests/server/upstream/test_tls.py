"""TLS to a provider, with an authority of the test's own: whom the gateway believes, what it shows of itself, and the
way through an egress proxy."""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from attrs import define, field
from each import each
from gateway import Running, Start, chain, provider, whole
from playbook import CHAT
from upstream import SILENCE, ScriptedUpstream, plain

from proxy.routing.problems import TableRejected
from proxy.server.reload import load_table

LOOPS = ("uvloop",)
YESTERDAY = datetime.now(UTC) - timedelta(days=1)


@define
class Authority:
    """A certificate authority, and files of what it issues."""

    home: Path
    ca: trustme.CA = field(factory=trustme.CA)

    @property
    def file(self) -> str:
        path = self.home / f"ca-{id(self.ca)}.pem"
        self.ca.cert_pem.write_to_path(path)
        return str(path)

    def server(self, *names: str, wants_client: bool = False, **options: Any) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert(*(names or ("127.0.0.1",)), **options).configure_cert(context)
        if wants_client:
            context.verify_mode = ssl.CERT_REQUIRED
            self.ca.configure_trust(context)
        return context

    def client(self, name: str = "client") -> tuple[str, str]:
        """Files of a certificate and of its key."""
        issued = self.ca.issue_cert(f"{name}@example.com")
        certificate, key = self.home / f"{name}.pem", self.home / f"{name}.key"
        issued.cert_chain_pems[0].write_to_path(certificate)
        issued.private_key_pem.write_to_path(key)
        return str(certificate), str(key)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def keys(**files: str) -> str:
    return "".join(f'{name} = "{path}"\n' for name, path in files.items())


async def test_a_private_authority_is_believed_where_the_block_names_it(authority: Authority, start: Start) -> None:
    async with ScriptedUpstream(authority.server()) as upstream:
        upstream.plays(plain(CHAT.answer("ok")))
        gw = await start(provider("first", upstream, more=keys(ca_file=authority.file)))
        assert [(await gw.ask(CHAT)).status for _ in range(2)] == [200, 200]
        assert upstream.opened == 1, "the connection serves again"


# what is wrong with the server -> its context
LIARS: dict[str, Callable[[Authority, Authority], ssl.SSLContext]] = {
    "an authority that nobody named": lambda mine, other: other.server(),
    "another name": lambda mine, other: mine.server("elsewhere.example"),
    "a certificate of the past": lambda mine, other: mine.server(not_after=YESTERDAY),
}


@pytest.mark.parametrize("liar", LIARS.values(), ids=LIARS)
async def test_who_cannot_prove_its_name_gets_nothing_and_the_next_one_serves(
    authority: Authority,
    upstream: ScriptedUpstream,
    start: Start,
    liar: Callable[[Authority, Authority], ssl.SSLContext],
) -> None:
    upstream.plays(plain(CHAT.answer("ok")))
    async with ScriptedUpstream(liar(authority, Authority(authority.home))) as false:
        table = provider("false", false, more=keys(ca_file=authority.file)) + provider("first", upstream)
        gw = await start(table + chain("false", "first"))
        assert (await gw.ask(CHAT, "profile:chain")).headers["X-Nyuro-Model"] == "first"
        answer = await gw.ask(CHAT, "false")
        assert answer.status == 502
        assert answer.json["error"]["code"] == "upstream_unreachable"
        assert not false.seen, "neither the request nor the key left"
        row = await gw.row(answer.request_id)
    assert "certificate" in row["attempts"][0]["detail"].lower()
    assert b"certificate" not in answer.body.lower()


async def test_the_systems_authorities_are_asked_where_none_is_named(authority: Authority, start: Start) -> None:
    async with ScriptedUpstream(authority.server()) as upstream:
        gw = await start(provider("first", upstream))
        assert (await gw.ask(CHAT)).status == 502
        assert not upstream.seen


async def test_a_handshake_that_stalls_ends_with_the_connect_timeout(upstream: ScriptedUpstream, start: Start) -> None:
    upstream.greeting = SILENCE
    block = provider("first", f"https://127.0.0.1:{upstream.port}", more='timeouts = { connect = "200ms" }')
    gw = await start(block)
    answer = await gw.ask(CHAT)
    assert answer.status == 504
    assert answer.json["error"]["code"] == "upstream_timeout"


# -- a certificate of our own ------------------------------------------------------------------------------------


@asynccontextmanager
async def shown(authority: Authority, start: Start, **ours: str) -> AsyncIterator[tuple[Running, ScriptedUpstream]]:
    """A provider who wants a certificate, and has seen ours."""
    async with ScriptedUpstream(authority.server(wants_client=True)) as upstream:
        upstream.plays(plain(CHAT.answer("ok")))
        gw = await start(provider("first", upstream, more=keys(ca_file=authority.file, **ours)))
        assert (await gw.ask(CHAT)).status == 200
        yield gw, upstream


async def test_a_client_certificate_is_shown_to_whom_wants_one(authority: Authority, start: Start) -> None:
    certificate, key = authority.client()
    async with shown(authority, start, client_cert=certificate, client_key=key) as (_, upstream):
        assert len(upstream.seen) == 1


async def test_key_and_certificate_may_stand_in_one_file(authority: Authority, start: Start, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_text("".join(Path(path).read_text() for path in reversed(authority.client())))
    async with shown(authority, start, client_cert=str(both)) as (_, upstream):
        assert len(upstream.seen) == 1


async def test_without_one_there_is_no_answer(authority: Authority, start: Start) -> None:
    async with ScriptedUpstream(authority.server(wants_client=True)) as upstream:
        gw = await start(provider("first", upstream, more=keys(ca_file=authority.file)))
        assert (await gw.ask(CHAT)).status == 502
        assert not upstream.seen


async def test_a_renewed_certificate_is_taken_by_a_reload(authority: Authority, start: Start) -> None:
    """Under its old name, with the table unchanged but for being read again."""
    certificate, key = authority.client()
    async with shown(authority, start, client_cert=certificate, client_key=key) as (gw, upstream):
        authority.client()
        os.utime(certificate, ns=(0, 0))  # whatever the clock's grain
        assert (await gw.over_socket("POST", "/admin/reload", {})).json["reloaded"] is True
        assert (await gw.ask(CHAT)).status == 200
        assert [seen.connection for seen in upstream.seen] == [1, 2]


# -- files that are of no use ------------------------------------------------------------------------------------

SECTION = '[providers.p]\ndialect = "openai-chat"\nbase_url = "https://a.example"\napi_key = "none"\n'
ENCRYPTED = (
    b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n"
    b"MIGjMF8GCSqGSIb3DQEFDTBSMDEGCSqGSIb3DQEFDDAkBBAoFDPvT2yVvPuKlW3z7LwWAgIIADAMBggqhkiG9w0CCQUAMB0GCWCGSAFlAwQB\n"
    b"-----END ENCRYPTED PRIVATE KEY-----\n"
)
FILES: dict[str, tuple[dict[str, bytes | None], str, str]] = {
    "an absent authority": ({"ca_file": None}, "ca_file", "no such file"),
    "an authority that is no PEM": ({"ca_file": b"hello"}, "ca_file", "no certificate in PEM"),
    "an absent certificate": ({"client_cert": None}, "client_cert", "no such file"),
    "a certificate without its key": ({"client_cert": b"certificate"}, "client_cert", "no certificate in PEM"),
    "a key without its certificate": ({"client_key": b"key"}, "client_key", "client_cert"),
    "somebody else's key": (
        {"client_cert": b"certificate", "client_key": b"another"},
        "client_cert",
        "does not belong",
    ),
    "an encrypted key": ({"client_cert": b"certificate", "client_key": ENCRYPTED}, "client_cert", "cannot be used"),
}


@pytest.mark.parametrize(("files", "key", "why"), FILES.values(), ids=FILES)
def test_a_file_that_is_of_no_use_refuses_the_table_with_its_place(
    authority: Authority, tmp_path: Path, files: dict[str, bytes | None], key: str, why: str
) -> None:
    certificate, own = authority.client()
    named = {b"certificate": certificate, b"key": own, b"another": authority.client("another")[1]}
    text = SECTION
    for name, content in files.items():
        path = tmp_path / name
        if content is not None:
            path.write_bytes(Path(named[content]).read_bytes() if content in named else content)
        text += f'{name} = "{path}"\n'
    with pytest.raises(TableRejected) as raised:
        load_table(text.encode(), {})
    (problem,) = raised.value.problems
    assert problem.path == f"providers.p.{key}"
    assert text.split("\n")[problem.line - 1].startswith(key)
    assert why in problem.message


async def test_a_reload_with_such_a_file_changes_nothing(
    upstream: ScriptedUpstream, start: Start, tmp_path: Path
) -> None:
    upstream.plays(plain(CHAT.answer("ok")))
    gw = await start(provider("first", upstream))
    gw.config.write_text(whole(provider("first", upstream, more=keys(ca_file=str(tmp_path / "absent.pem")))))
    assert "ca_file" in (await gw.over_socket("POST", "/admin/reload", {})).json["message"]
    assert (await gw.ask(CHAT)).status == 200


# -- egress proxies ----------------------------------------------------------------------------------------------


@define(eq=False)
class EgressProxy:
    """CONNECT for TLS, the whole address in the request line for clear text. Keeps the heads that it was sent."""

    heads: list[str] = field(factory=list)
    port: int = 0
    refuses: bool = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(head)
        method, target, _ = head.split(" ", 2)
        if self.refuses:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            writer.close()
            return
        host, _, port = target.removeprefix("http://").partition("/")[0].rpartition(":")
        there, back = await asyncio.open_connection(host, int(port))
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            back.write(head.replace(f"http://{host}:{port}", "", 1).encode())
        await asyncio.gather(_copied(reader, back), _copied(there, writer))


async def _copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


@asynccontextmanager
async def egress(*, refuses: bool = False) -> AsyncIterator[EgressProxy]:
    proxy = EgressProxy(refuses=refuses)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()


async def test_tls_goes_through_the_proxy_unopened(authority: Authority, start: Start) -> None:
    async with ScriptedUpstream(authority.server()) as upstream, egress() as proxy:
        upstream.plays(plain(CHAT.answer("ok")))
        more = keys(ca_file=authority.file, proxy=f"http://egress-user:egress-word@127.0.0.1:{proxy.port}")
        gw = await start(provider("first", upstream, more=more))
        assert (await gw.ask(CHAT)).status == 200
        await stopped(gw)
    (head,) = proxy.heads
    assert head.startswith(f"CONNECT 127.0.0.1:{upstream.port} HTTP/1.1\r\n")
    login = base64.b64encode(b"egress-user:egress-word").decode()
    assert f"Proxy-Authorization: Basic {login}\r\n" in head
    assert "canary-house-key" not in head
    assert "proxy-authorization" not in upstream.seen[0].headers


async def test_clear_text_names_its_whole_address_to_the_proxy(upstream: ScriptedUpstream, start: Start) -> None:
    async with egress() as proxy:
        upstream.plays(plain(CHAT.answer("ok")))
        gw = await start(provider("first", upstream, more=keys(proxy=f"http://127.0.0.1:{proxy.port}")))
        assert (await gw.ask(CHAT)).status == 200
        await stopped(gw)
    assert proxy.heads[0].startswith(f"POST {upstream.root}/v1/chat/completions HTTP/1.1\r\n")


async def test_a_proxy_that_refuses_is_a_provider_out_of_reach(authority: Authority, start: Start) -> None:
    async with ScriptedUpstream(authority.server()) as upstream, egress(refuses=True) as proxy:
        address = f"http://egress-user:egress-word@127.0.0.1:{proxy.port}"
        gw = await start(provider("first", upstream, more=keys(ca_file=authority.file, proxy=address)))
        answer = await gw.ask(CHAT)
        assert answer.status == 502
        assert not upstream.seen
        told = answer.body + str(await gw.row(answer.request_id)).encode()
    assert b"egress-word" not in told


async def test_the_environment_names_no_proxy(
    upstream: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    upstream.plays(plain(CHAT.answer("ok")))
    assert (await (await start(provider("first", upstream))).ask(CHAT)).status == 200


async def stopped(gw: Running) -> None:
    """Its connections with it, so that nothing is left in the proxy."""
    assert gw.app is not None
    await gw.quiet()
    await gw.app.reloader.builder.pool.close()


BAD_PROXIES = [
    "egress:3128",
    "socks5://a:1",
    "http://a",
    "http://a:1/path",
    "http://a:99999",
    "https://a:1",
    "http://a b:1",
]


@each("address", BAD_PROXIES)
def test_what_is_no_address_of_a_proxy_is_refused(address: str) -> None:
    with pytest.raises(TableRejected, match=r"providers\.p\.proxy: an address such as"):
        load_table((SECTION + keys(proxy=address)).encode(), {})
