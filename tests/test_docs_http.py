"""docs/errors.md, docs/headers.md and docs/dialects.md tell of what goes over the wire, in both directions."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from each import each
from gateway import Answer, Start, provider
from keyed import make
from pages import DIALECTS, ERRORS, HEADERS, LIFE, ROOT, ROUTES, flowing, rows, section, spans
from playbook import CHAT, MESSAGES, TONGUES, Tongue
from upstream import ScriptedUpstream, plain

from proxy import dialects, errors
from proxy.accounts.admission import FOREIGN_SIGNS, LOCAL_HOSTS, Caller, is_local
from proxy.dialects.dialect import Voice
from proxy.errors import Foreign, GatewayError
from proxy.routing import facts
from proxy.server import endpoints, respond
from proxy.server.call import Surface
from proxy.server.clients import visitor
from proxy.wire import headers as passing

PREFIX = "x-nyuro-"
SURFACES = [dialects.DIALECTS[name] for name in ("openai-chat", "anthropic")]

# -- errors ------------------------------------------------------------------------------------------------------


def leaves(kind: type[GatewayError]) -> Iterator[type[GatewayError]]:
    below = kind.__subclasses__()
    if not below:
        yield kind
    for one in below:
        yield from leaves(one)


def test_every_error_that_can_be_raised_has_a_status_and_a_code_of_its_own() -> None:
    assert set(leaves(GatewayError)) <= respond.STATUS.keys()
    assert len({kind.code for kind in respond.STATUS}) == len(respond.STATUS)


def told_of(kind: type[GatewayError]) -> dict[str, str]:
    """A row of the page, less what a person has to do."""
    error, kept = kind("No."), kind("No.", foreign=Foreign(418, b""))
    statuses = [respond.status_of(error, dialect) for dialect in SURFACES]
    types = [d.write_error(error, s, "req_0")["error"]["type"] for d, s in zip(SURFACES, statuses, strict=True)]
    status = ", ".join(map(str, dict.fromkeys(statuses)))
    return {
        "code": f"`{kind.code}`",
        "status": f"{status} or kept" if respond.status_of(kept, SURFACES[0]) == 418 else status,
        "OpenAI": f"`{types[0]}`",
        "Anthropic": f"`{types[1]}`",
        "source": kind.source,
        "next": "yes" if kind.try_next else "no",
        "again": kind.same,
        "rests": kind.cooldown,
        "x-should-retry": should_retry(kind),
    }


def should_retry(kind: type[GatewayError]) -> str:
    """A provider's failure is always one after candidates were tried."""
    tried = issubclass(kind, errors.UpstreamError)
    refused = [
        ("x-should-retry", "false") in respond.error_answer(error, SURFACES[0], "req_0", tried=tried).headers
        for error in (kind("No.", retry_after=3.0), kind("No."))
    ]
    return {(True, True): "false", (False, True): "tried", (False, False): "-"}[refused[0], refused[1]]


def test_every_error_is_told_as_it_is_and_no_other() -> None:
    page = rows(ERRORS, "what to do")
    told = {row["code"]: row for row in page}
    assert len(told) == len(page)
    assert told.keys() == {f"`{kind.code}`" for kind in respond.STATUS}
    for kind in respond.STATUS:
        row = told[f"`{kind.code}`"]
        assert told_of(kind) | {"what to do": row["what to do"]} == row
        assert row["what to do"].endswith(".")


@each(
    ("source", "heading"),
    {
        "client": "## The client has to act",
        "policy": "## Policy",
        "gateway": "## The gateway or its operator",
        "upstream": "## A provider failed",
    }.items(),
)
def test_errors_stand_under_whoever_has_to_act(source: str, heading: str) -> None:
    assert {row["source"] for row in rows(section(ERRORS, heading))} == {source}


FRAMED = {
    name: surface
    for name, surface in endpoints.BY_NAME.items()
    if (operation := dialects.DIALECTS[surface.dialect].operations.get(surface.operation)) is None or operation.framed
}


@each("surface", FRAMED.values(), ids=FRAMED)
def test_an_error_inside_a_stream_is_told_as_it_comes(surface: Surface) -> None:
    told = {row["surface"]: row for row in rows(section(ERRORS, "## An error inside a stream"))}
    assert told.keys() == FRAMED.keys()
    encoder = dialects.DIALECTS[surface.dialect].codec().stream_encoder(Voice("req_0", "m", 0))
    sent = encoder.fail(errors.UpstreamBroken("It broke off.")).decode()
    for line in spans(told[surface.name]["what comes"]):
        assert f"\n{line.partition(' {')[0]}" in f"\n{sent}"
    for line in spans(told[surface.name]["what does not"]):
        assert line not in sent


@each("kind", respond.STATUS, ids=lambda kind: kind.__name__)
def test_both_surfaces_of_openai_tell_errors_alike(kind: type[GatewayError]) -> None:
    chat, responses = (dialects.DIALECTS[name] for name in ("openai-chat", "openai-responses"))
    status = respond.status_of(kind("No."), chat)
    assert chat.write_error(kind("No."), status, "req_0") == responses.write_error(kind("No."), status, "req_0")


# -- headers that are read ---------------------------------------------------------------------------------------


def names_in(text: str, column: str = "header") -> set[str]:
    """The headers that the tables of a section name, in lower case."""
    return {name.lower() for row in rows(text, column) for name in spans(row[column])}


def of_headers(node: ast.expr) -> bool:
    return ast.unparse(node).endswith("headers")


def literal(node: ast.expr) -> str:
    """The name that an expression gives; the prefix stands where it is put in."""
    match node:
        case ast.Constant(value=str(name)):
            return name.lower()
        case ast.JoinedStr(values=[ast.FormattedValue(), ast.Constant(value=str(rest))]):
            return PREFIX + rest.lower()
    return ""


def looked_up(tree: ast.AST) -> Iterator[str]:
    """`headers.get("x")`, `headers.getall("x")`, `headers["x"]`, `"x" in headers`."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=source, attr="get" | "getall"), args=[name, *_]) if of_headers(
                source
            ):
                yield literal(name)
            case ast.Subscript(value=source, slice=name, ctx=ast.Load()) if of_headers(source):
                yield literal(name)
            case ast.Compare(left=name, ops=[ast.In()], comparators=[source]) if of_headers(source):
                yield literal(name)


def test_every_header_that_is_read_is_told_and_no_other() -> None:
    sources = [*(ROOT / "proxy/server").rglob("*.py"), ROOT / "proxy/routing/facts.py"]
    found = {name for path in sources for name in looked_up(ast.parse(path.read_text()))} - {""}
    assert {"expect", "content-type", f"{PREFIX}sort"} <= found, "the search finds what there is"
    read = found | {
        *visitor.SESSION_HEADERS,
        *visitor.KEY_HEADERS,
        *FOREIGN_SIGNS,
        visitor.HOPS,
        "x-forwarded-*",
        f"{PREFIX}key-*",
    }
    assert names_in(section(HEADERS, "## Read from a request")) == read - {"cf-ray"}


def test_a_sign_of_a_proxy_or_a_page_is_one_as_told() -> None:
    assert is_local(Caller(True, "localhost:8080", frozenset()))
    for name in ("Forwarded", "Via", "Origin", "X-Forwarded-Proto"):
        assert not is_local(Caller(True, "localhost:8080", frozenset({name.lower()})))
    assert {"localhost", "127.0.0.1", "[::1]"} == LOCAL_HOSTS


# -- headers to a provider ---------------------------------------------------------------------------------------

CLIENTS = {"Authorization": "Bearer canary-of-the-client", "X-Api-Key": "canary-of-the-client", "Cookie": "a=b",
           "X-Stainless-Lang": "python", "Traceparent": "00-1-2-01", "X-Request-Id": "mine"}  # fmt: skip


def common(sent: Iterable[str]) -> set[str]:
    return set(sent) - {"host", "content-length", "connection"}


@pytest.mark.parametrize("tongue", TONGUES.values(), ids=TONGUES)
async def test_a_provider_gets_the_headers_that_are_told(
    tongue: Tongue, start: Start, upstream: ScriptedUpstream
) -> None:
    upstream.plays(plain(tongue.answer("Hello.")))
    running = await start(provider("first", upstream, tongue))
    await running.ask(tongue, headers=CLIENTS)
    sent = upstream.seen[0].headers
    told = names_in(section(HEADERS, "## Sent to a provider").partition("Of the client's own")[0])
    keyed = {name.lower() for dialect in dialects.UPSTREAMS.values() for name, _ in dialect.credential("key")}
    ours = {"authorization"} if tongue is CHAT else {"x-api-key", "anthropic-version"}
    assert common(sent) == told - (keyed | {"anthropic-version"}) | ours
    assert keyed <= told
    assert "canary-of-the-client" not in str(sent)
    fixed = {"accept-encoding": "identity", "user-agent": "pointsman", "content-type": "application/json"}
    assert fixed.items() <= sent.items()


def test_headers_of_the_client_pass_as_told() -> None:
    """A row per kind of header, each tried with every dialect, native or not, with the caller's key or the house's."""
    told = names_in(section(HEADERS, "## Sent to a provider").partition("Of the client's own")[2])
    samples = {name.replace("*", "beta"): name for name in told}
    everything = [*((name, "x") for name in samples), *((name, "x") for name in ("user-agent", "cookie", "via", "x-y"))]
    passed: dict[str, set[tuple[str, bool, bool]]] = {name: set() for name in told}
    for dialect in ("openai-chat", "anthropic"):
        for native in (False, True):
            for byok in (False, True):
                for name, _ in passing.request_headers(everything, dialect, native, byok):
                    passed[samples[name]].add((dialect, native, byok))
    assert passed == {
        "anthropic-*": {("anthropic", True, False), ("anthropic", True, True)},
        "openai-beta": {("openai-chat", True, False), ("openai-chat", True, True)},
        "openai-organization": {("openai-chat", False, True), ("openai-chat", True, True)},
        "openai-project": {("openai-chat", False, True), ("openai-chat", True, True)},
        "idempotency-key": {("openai-chat", True, True), ("anthropic", True, True)},
    }


# -- headers of answers ------------------------------------------------------------------------------------------

OWN = ("## On every answer", "## What was decided", "## Where they apply")
PASSED = "## Passed on from the provider"
ECHO = """
[providers.embedded]
dialect = "openai-chat"
[models."embedded/echo"]
provider = "embedded"
native = "echo"
"""


def own_headers() -> set[str]:
    return {name for heading in OWN for name in names_in(section(HEADERS, heading))}


async def test_every_header_of_our_answers_is_told_and_no_other(start: Start, upstream: ScriptedUpstream) -> None:
    """Answers of every kind, from a live gateway."""
    upstream.plays(plain(CHAT.answer("Hello.")))
    price = "price = { input = 1, output = 2 }"
    running = await start(provider("first", upstream, models={"first": price}) + ECHO)
    answers: list[Answer] = [
        await running.ask(CHAT),
        await running.ask(CHAT, "embedded/echo", stream=True),
        await running.ask(MESSAGES, top_k=3),
        await running.ask(MESSAGES, "no-such-model"),
        await running.post("/v1/route", CHAT.request()),
        await running.post("/v1/chat/completions", b"{", {"Content-Type": "text/plain"}),
        await running.get(f"{running.base}/v1/messages"),
        await running.get(f"{running.base}/v1/models"),
        await running.get(f"{running.base}/healthz"),
        await running.get(f"{running.base}/nowhere"),
        await running.get(f"{running.admin}/metrics"),
        await running.get(f"{running.admin}/admin/config"),
        await running.over_socket("GET", "/admin/config"),
    ]
    key = await make(running, limits={"rpm": 9, "tpm": 9000})
    answers += [await running.ask(tongue, headers=key.bearer) for tongue in (CHAT, MESSAGES)]
    found = {name.lower() for answer in answers for name in answer.headers}
    found |= {
        name.lower() for name, _ in respond.error_answer(errors.AllCooling("", retry_after=3), SURFACES[0], "").headers
    }
    assert found <= own_headers() | names_in(section(HEADERS, PASSED))
    assert own_headers() - {"connection"} <= found
    for answer in answers:
        decided = {name.lower() for name in answer.headers if name.lower().startswith(PREFIX)}
        assert not decided or decided >= {PREFIX + name for name in ("model", "route-reason", "config", "attempts")}


@pytest.mark.parametrize("tongue", TONGUES.values(), ids=TONGUES)
async def test_headers_of_a_provider_reach_the_client_as_told(
    tongue: Tongue, start: Start, upstream: ScriptedUpstream
) -> None:
    """All that the page names are sent, to a client of the same dialect and to one of the other."""
    page = section(HEADERS, PASSED)
    told = {name: row["when"] for row in rows(page, "when") for name in map(str.lower, spans(row["header"]))}
    private = {name.lower() for when in told.values() for name in spans(when)}
    never = {name.lower() for name in spans(page.partition("Never:")[2])}
    assert private == set(passing._PRIVATE)
    assert {name.removesuffix("-*") for name in told} >= set(passing._NATIVE_ANSWER)
    offered = (told.keys() | private | never | {"retry-after-ms", "cf-ray"}) - {"x-upstream-request-id"}
    sent: dict[str, Any] = {name.replace("*", "requests").replace("-", "_"): "1" for name in offered}
    upstream.plays(plain(tongue.answer("Hello."), x_request_id="id-of-the-provider", **sent))
    running = await start(provider("first", upstream, tongue))
    for asking in TONGUES.values():
        headers = (await running.ask(asking)).headers
        assert headers["x-upstream-request-id"] == "id-of-the-provider"
        passing_names = {name for name, when in told.items() if asking is tongue or when.startswith("always")}
        expected = {name.replace("*", "requests") for name in passing_names}
        assert {name.lower() for name in headers} - (own_headers() - expected) == expected


# -- dialects ----------------------------------------------------------------------------------------------------


def test_every_dialect_is_told_and_no_other() -> None:
    told = {spans(row["dialect"])[0]: row for row in rows(DIALECTS, "speaks")}
    assert told.keys() == dialects.UPSTREAMS.keys()
    for name, dialect in dialects.UPSTREAMS.items():
        row = told[name]
        ((header, value),) = dialect.credential("")
        assert (spans(row["speaks"]) or [name]) == [dialect.speaks]
        assert spans(row["path at the provider"]) == [dialect.path("chat", "m", False).replace("/m:", "/{model}:")]
        assert spans(row["key"]) == [f"{header}: {value}".strip().removesuffix(":")]
        assert (ROOT / spans(row["module"])[0]).exists()


def test_every_surface_is_told_and_no_other() -> None:
    told = {
        spans(row["path"])[0].removeprefix("POST "): (row["surface"], spans(row["dialect"])[0])
        for row in rows(section(DIALECTS, "## Surfaces"), "surface")
    }
    assert told == {path: (surface.name, surface.dialect) for path, surface in endpoints.SURFACES.items()}
    default = endpoints.SURFACES["/ai/chat"].default_model
    assert f"a missing `model` means `{default}`" in flowing(DIALECTS)


def test_dialects_that_a_provider_may_name_are_told_in_the_file() -> None:
    line = re.search(r"^#   dialects     (.*\n.*)$", ROUTES, re.MULTILINE)
    assert line is not None
    assert set(re.findall(r'"([a-z-]+)"', line[1])) - {"x"} >= dialects.DIALECTS.keys()


def test_members_that_are_taken_out_are_told() -> None:
    told = section(DIALECTS, "## The same dialect")
    assert set(spans(told)) >= facts.EXTENSIONS
    assert "identity" in LIFE
