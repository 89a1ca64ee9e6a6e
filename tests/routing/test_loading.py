"""routes.toml: what is refused, where, and in which words; what is no problem at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from attrs import asdict
from each import each
from scenes import EVERY, PROJECT, ROUTES, problems, table_of

from proxy.dialects import UPSTREAMS
from proxy.routing.loading import load
from proxy.routing.problems import Problem, TableRejected
from proxy.routing.table import Table, Timeouts
from proxy.secret import Secret

SHIPPED = (PROJECT / "routes.toml").read_bytes()
PROVIDER = '[providers.p]\ndialect = "openai-chat"\nbase_url = "http://p.test/v1"\napi_key = "none"\n'
MODEL = PROVIDER + '[models.m]\nprovider = "p"\n'


def told(text: str, **env: str) -> list[str]:
    return [str(problem) for problem in problems(text, env)]


# -- files that load ---------------------------------------------------------------------------------------------


@each("path", [PROJECT / "routes.toml", *sorted(ROUTES.glob("*.toml"))], ids=lambda path: path.name)
@each("env", [{}, EVERY], ids=["no key", "every key"])
def test_the_files_that_ship_load_without_a_warning(path: Path, env: dict[str, str]) -> None:
    assert table_of(path.read_bytes(), env).warnings == ()


def test_the_second_auto_table_in_the_shipped_comment_loads() -> None:
    lines = SHIPPED.decode().splitlines()
    start = lines.index("# [auto]")
    block = [line.removeprefix("# ") for line in lines[start + 1 : start + 6]]
    text = SHIPPED.decode().partition("\n[auto] #")[0] + "\n[auto]\n" + "\n".join(block)
    assert table_of(text, EVERY).auto.lists == table_of((ROUTES / "local_first.toml").read_bytes()).auto.lists


def test_an_empty_table_is_enough() -> None:
    table = table_of("# nothing\n")
    assert (table.providers, table.models, table.first_run) == ({}, {}, True)


def test_the_words_of_the_file_become_values() -> None:
    table = table_of(
        '[server]\nmax_body = "64KiB"\nledger_bytes = "1GB"\n'
        '[timeouts]\nconnect = "250ms"\nidle = "1.5m"\ntotal = "2h"\ncommit_after = "off"\n[routing]\nexplore = 0.5\n'
        '[auto]\ncoding = ["m"]\nsummary = ["m"]\nsafe = "coding"\n' + MODEL
    )
    assert (table.server.max_body, table.server.ledger_bytes) == (65_536, 10**9)
    times = table.timeouts
    assert asdict(times) == asdict(Timeouts()) | {"connect": 0.25, "idle": 90, "total": 7200}
    assert (set(table.auto.lists), table.auto.safe) == ({"code", "summarization"}, "code")
    assert table.routing.explore == 0.5


# -- every problem at once -----------------------------------------------------------------------------------------

MANY = """[server]
listen = ["nowhere"]
max_boddy = "1MiB"
[timeouts]
connect = 5
[providers.openai]
dialect = "openai-chatt"
base_url = "ftp://x"
[models.a]
provider = "opena"
context = "large"
colour = "blue"
"""


def test_everything_that_is_wrong_in_shape_and_meaning_is_told_at_once() -> None:
    assert told(MANY) == [
        'line 2: server.listen: \'nowhere\' is none of "host:port", "unix:/path", "systemd"',
        "line 3: server.max_boddy: unknown key; did you mean 'max_body'?",
        'line 5: timeouts.connect: a time such as "500ms", "5s", "2m", "1h" or "off" is needed, not 5',
        'line 6: providers.openai.api_key: name the key, such as "${MY_KEY}", or "none" where the provider needs none',
        "line 6: providers.openai.dialects: unknown dialect 'openai-chatt'; did you mean 'openai-chat'?",
        "line 8: providers.openai.base_url: an address such as https://api.example.com/v1 is needed",
        "line 10: models.a.provider: no provider is called 'opena'; did you mean 'openai'?",
        "line 11: models.a.context: a whole number is needed, not a string",
        "line 12: models.a.colour: unknown key; known are provider, native, context, max_output, price, capabilities, "
        "quality, reasoning, timeouts, limits",
    ]


def test_everything_that_is_wrong_with_the_meaning_is_told_at_once() -> None:
    text = """[server]
listen = ["nowhere"]
workers = 2
[providers.openai]
dialect = "openai-chatt"
base_url = "ftp://x"
[models.a]
provider = "opena"
quality = 101
[aliases]
x = "aa"
[projects.team]
budget = 5
"""
    assert told(text) == [
        'line 2: server.listen: \'nowhere\' is none of "host:port", "unix:/path", "systemd"',
        "line 3: server.workers: one process is all there is until limits can be shared: remove it or set 1",
        'line 4: providers.openai.api_key: name the key, such as "${MY_KEY}", or "none" where the provider needs none',
        "line 4: providers.openai.dialects: unknown dialect 'openai-chatt'; did you mean 'openai-chat'?",
        "line 6: providers.openai.base_url: an address such as https://api.example.com/v1 is needed",
        "line 8: models.a.provider: no provider is called 'opena'; did you mean 'openai'?",
        "line 9: models.a.quality: a whole number from 0 to 100 is needed",
        "line 11: aliases.x: no model is called 'aa'; near: a",
        "line 13: projects.team.budget: a table is needed here",
    ]


# text -> the problem's path and a part of its message
WRONG: dict[str, tuple[str, str, str]] = {
    "an empty file": (" \n", "", "the file is empty"),
    "no TOML": ("[server\n", "", "not TOML"),
    "a name given twice": ("[server]\nworkers = 1\nworkers = 1", "", "not TOML"),
    "a model given twice": (MODEL + '[models.m]\nprovider = "p"', "", "not TOML"),
    "nested too deeply": ("a = " + "[" * 2000 + "]" * 2000, "", "nested too deeply"),
    "an integer of 5,000 digits": ("a = " + "9" * 5000, "", "too many digits"),
    "an exponent of 20 digits": ("a = 1e99999999999999999999", "", "too many digits"),
    "an unknown section": ("[severs]\n", "severs", "did you mean 'server'?"),
    "an empty key": ('[server]\n"" = 1', "server.", "unknown key"),
    "a section that is no table": ("server = 5", "server", "a table is needed here"),
    "models that are no table": ("models = [1]", "models", "a table is needed here"),
    "rules that are a string": ('rules = "x"', "rules[0]", "a table is needed here"),
    "a boolean for a number": (
        PROVIDER + "connections = true",
        "providers.p.connections",
        "a whole number is needed, not a boolean",
    ),
    "a number for a boolean": (
        PROVIDER + "local = 1",
        "providers.p.local",
        "true or false is needed, not a whole number",
    ),
    "a number for a string": (MODEL + "native = 7", "models.m.native", "a string is needed, not a whole number"),
    "a string for a list": (PROVIDER + 'models = "gpt-*"', "providers.p.models", "a list of strings is needed"),
    "an empty string in a list": (PROVIDER + 'models = [""]', "providers.p.models", "a list of strings is needed"),
    "a time without a unit": ('[timeouts]\nidle = "5"', "timeouts.idle", 'a time such as "500ms"'),
    "a time of nothing": ('[timeouts]\nidle = "0s"', "timeouts.idle", "more than nothing is needed"),
    "a provider's time of nothing": (
        PROVIDER + 'timeouts = { idle = "0s" }',
        "providers.p.timeouts.idle",
        "more than nothing",
    ),
    "a time of ages": ('[timeouts]\nidle = "999999999d"', "timeouts.idle", "a year is the most"),
    "a time of an endless number": ('[timeouts]\nidle = "' + "9" * 400 + 's"', "timeouts.idle", "a year is the most"),
    "a size without a unit": ('[server]\nmax_body = "32"', "server.max_body", 'a size such as "64KiB"'),
    "a share above one": ("[routing]\nexplore = 1.5", "routing.explore", "a share from 0 to 1"),
    "no such choice": ('[server]\nauth = "open"', "server.auth", "one of 'keys', 'none' is needed, not 'open'"),
    "a prefix without a dash": ('[server]\nheader_prefix = "X"', "server.header_prefix", "ending in a dash"),
    "a proxy's name": (
        '[server]\ntrusted_proxies = ["nginx"]',
        "server.trusted_proxies",
        "'nginx' is none of: an address",
    ),
    "nowhere to listen": ("[server]\nlisten = []", "server.listen", "name at least one address"),
    "a port that is none": ('[server]\nlisten = ["127.0.0.1:65536"]', "server.listen", "is none of"),
    "metrics on the data listener": (
        '[server]\nadmin = "127.0.0.1:8080"',
        "server.admin",
        "the data listener has this address",
    ),
    "no dialect": (
        '[providers.p]\nbase_url = "http://x"\napi_key = "none"',
        "providers.p.dialects",
        "name what it speaks",
    ),
    "two kinds of dialect": (PROVIDER + 'dialects = ["anthropic"]', "providers.p.dialect", "not both"),
    "a provider's odd name": (PROVIDER.replace("providers.p", 'providers."a b"'), "providers.a b", "letters, digits"),
    "no address": (PROVIDER.replace("http://p.test/v1", ""), "providers.p.base_url", "an address such as"),
    "an address without a host": (PROVIDER.replace("p.test", ""), "providers.p.base_url", "an address such as"),
    "an address with a space": (PROVIDER.replace("p.test", "p test"), "providers.p.base_url", "an address such as"),
    "an address of another kind": (PROVIDER.replace("http:", "file:"), "providers.p.base_url", "an address such as"),
    "an address with a bad port": (
        PROVIDER.replace("p.test", "p.test:99999"),
        "providers.p.base_url",
        "an address such as",
    ),
    "an address with half a bracket": (
        PROVIDER.replace("p.test", "[::1"),
        "providers.p.base_url",
        "an address such as",
    ),
    "an address with a user": (PROVIDER.replace("p.test", "me:secret@p.test"), "providers.p.base_url", "no user name"),
    "an address with a password alone": (
        PROVIDER.replace("p.test", ":secret@p.test"),
        "providers.p.base_url",
        "no user name",
    ),
    "an address with a query": (PROVIDER.replace("/v1", "/v1?key=x"), "providers.p.base_url", "no user name, query"),
    "an embedded one with an address": (
        '[providers.embedded]\ndialect = "openai-chat"\nbase_url = "http://x"',
        "providers.embedded.base_url",
        "answers in this process",
    ),
    "two kinds of keys": (PROVIDER + 'api_keys = ["${A}"]', "providers.p.api_key", "not both"),
    "an empty key for api_key": (PROVIDER.replace('"none"', '""'), "providers.p.api_key", "name the key"),
    "a file without a name": (PROVIDER.replace('"none"', '"file:"'), "providers.p.api_key", "name the key"),
    "a file that is not there": (
        PROVIDER.replace('"none"', '"file:/nowhere"'),
        "providers.p.api_key",
        "the file does not exist",
    ),
    "a key of two lines": (PROVIDER.replace('"none"', '"one\\ntwo"'), "providers.p.api_key", "no header carries"),
    "a key of other letters": (PROVIDER.replace('"none"', '"schlüssel"'), "providers.p.api_key", "no header carries"),
    "a header's odd name": (
        PROVIDER + 'headers = { "X Y" = "z" }',
        "providers.p.headers.X Y",
        "no header has such a name",
    ),
    "a header of two lines": (
        PROVIDER + 'headers = { X-Y = "a\\r\\nb" }',
        "providers.p.headers.X-Y",
        "no header has such",
    ),
    "asking without a pause": (PROVIDER + 'discover = "10ms"', "providers.p.discover", '"1s" or more'),
    "probing without a pause": (PROVIDER + 'probe = "0s"', "providers.p.probe", '"1s" or more'),
    "a probe of another host": (PROVIDER + 'probe_path = "http://a/"', "providers.p.probe_path", "/health"),
    "a probe's path with a line end": (PROVIDER + 'probe_path = "/a\\r\\nb"', "providers.p.probe_path", "/health"),
    "no connections": (PROVIDER + "connections = 0", "providers.p.connections", "1 or more"),
    "an unknown endpoint": (PROVIDER + 'endpoints = ["chats"]', "providers.p.endpoints", "unknown 'chats'"),
    "the head of another's pattern": (
        PROVIDER + 'models = ["meta/*"]\n' + PROVIDER.replace("providers.p", "providers.meta"),
        "providers.meta",
        "meta/… would mean two things: p has the pattern meta/*; rename one",
    ),
    "the head of a pattern that both have": (
        PROVIDER + 'models = ["meta/*"]\n' + PROVIDER.replace("providers.p", "providers.meta") + 'models = ["meta/*"]',
        "providers.meta",
        "meta/… would mean two things",
    ),
    "a model without a provider": ('[models.m]\nnative = "x"', "models.m.provider", "is missing"),
    "an unknown capability": (MODEL + 'capabilities = ["tool"]', "models.m.capabilities", "unknown 'tool'"),
    "a rank above 100": (MODEL + "reasoning = 101", "models.m.reasoning", "from 0 to 100"),
    "a window of nothing": (MODEL + "context = 0", "models.m.context", "one or more"),
    "a negative price": (MODEL + "price = { input = -1, output = 1 }", "models.m.price.input", "a number from 0"),
    "half a price": (MODEL + "price = { input = 1 }", "models.m.price.output", "is missing"),
    "an infinite price": (MODEL + "price = { input = inf, output = 1 }", "models.m.price.input", "a number from 0"),
    "no number at all": (MODEL + "price = { input = nan, output = 1 }", "models.m.price.input", "a number"),
    "a price beyond counting": (
        MODEL + "price = { input = 1e999999, output = 1 }",
        "models.m.price.input",
        "a number from 0",
    ),
    "a price as a string": (
        MODEL + 'price = { input = "1", output = 1 }',
        "models.m.price.input",
        "a number is needed, not a string",
    ),
    "an id of 257 characters": (PROVIDER + f'[models.{"x" * 257}]\nprovider = "p"', "models." + "x" * 257, "1 to 256"),
    "an id with a bracket": (PROVIDER + '[models."a]"]\nprovider = "q"', "models.a].provider", "no provider is called"),
    "an id that ends in a dot": (
        PROVIDER + '[models."a."]\nprovider = "q"',
        "models.a..provider",
        "no provider is called",
    ),
    "an empty id": (PROVIDER + '[models.""]\nprovider = "p"', "models.", "1 to 256"),
    "an alias named like a model": (MODEL + '[aliases]\nm = "m"', "aliases.m", "a model has this id already"),
    "an empty alias": (MODEL + "[aliases]\nx = []", "aliases.x", "a list of them that is not empty"),
    "an alias of nobody": (MODEL + '[aliases]\nx = "mm"', "aliases.x", "no model is called 'mm'; near: m"),
    "an alias with a bad suffix": (MODEL + '[aliases]\nx = "m;sort:best"', "aliases.x", "sort is one of"),
    "a class of no name": (MODEL + '[auto]\ncooking = ["m"]', "auto.cooking", "the classes are code"),
    "a class twice": (MODEL + '[auto]\ncode = ["m"]\ncoding = ["m"]', "auto.coding", "has a list already"),
    "an empty class": (MODEL + "[auto]\ncode = []", "auto.code", "not empty"),
    "a class of a string": (MODEL + '[auto]\ncode = "m"', "auto.code", "a list of model names"),
    "a safe class of no name": ('[auto]\nsafe = "cooking"', "auto.safe", "one of code"),
    "a safe class that is a list": ('[auto]\nsafe = ["code"]', "auto.safe", "one of code"),
    "an industry without models": ("[industries.law]\nmodels = []", "industries.law.models", "name at least one"),
    "an industry of nobody": (
        '[industries.law]\nmodels = ["industry:laws"]',
        "industries.law.models",
        "no industry is called 'laws'; near: law",
    ),
    "a strategy of nobody": (
        MODEL + '[aliases]\nx = "strategy:costs"',
        "aliases.x",
        "no strategy is called 'costs'; near: cost",
    ),
    "a profile of nobody": (MODEL + '[aliases]\nx = "profile:y"', "aliases.x", "no profile is called 'y'"),
    "a profile without candidates": ("[profiles.x]\ncandidates = []", "profiles.x.candidates", "name at least one"),
    "a profile's odd sort": (
        MODEL + '[profiles.x]\ncandidates = ["m"]\nsort = "best"',
        "profiles.x.sort",
        "one of price",
    ),
    "a candidate without a model": (
        "[profiles.x]\ncandidates = [{ weight = 1 }]",
        "profiles.x.candidates[0]",
        "a model name or",
    ),
    "a candidate's odd key": (
        MODEL + '[profiles.x]\ncandidates = ["m", { model = "m", wait = 1 }]',
        "profiles.x.candidates[1]",
        "unknown key 'wait'",
    ),
    "a negative weight": (
        MODEL + '[profiles.x]\ncandidates = [{ model = "m", weight = -1 }]',
        "profiles.x.candidates[0]",
        "weight is a whole number",
    ),
    "a weight beyond counting": (
        MODEL + '[profiles.x]\ncandidates = [{ model = "m", weight = ' + "9" * 400 + " }]",
        "profiles.x.candidates[0]",
        "weight is a whole",
    ),
    "a rule without a name": (MODEL + '[[rules]]\nuse = ["m"]', "rules[0].name", "is missing"),
    "a rule without a use": (MODEL + '[[rules]]\nname = "r"\nuse = []', "rules[0].use", "name at least one"),
    "a rule of nobody": (MODEL + '[[rules]]\nname = "r"\nuse = ["x"]', "rules[0].use", "no model is called 'x'"),
    "a rule's odd need": (
        MODEL + '[[rules]]\nname = "r"\nuse = ["m"]\nneeds = ["speed"]',
        "rules[0].needs",
        "unknown 'speed'",
    ),
    "a rule's odd endpoint": (
        MODEL + '[[rules]]\nname = "r"\nuse = ["m"]\nendpoints = ["x"]',
        "rules[0].endpoints",
        "unknown 'x'",
    ),
    "a rule's odd key": (
        MODEL + '[[rules]]\nname = "r"\nuse = ["m"]\nkeyword = ["x"]',
        "rules[0].keyword",
        "did you mean 'keywords'?",
    ),
    "a rule that never matches": (
        MODEL + '[[rules]]\nname = "r"\nuse = ["m"]\ntokens = { min = 2, max = 1 }',
        "rules[0].tokens",
        "min is above max",
    ),
    "two rules of one name": (
        MODEL + '[[rules]]\nname = "r"\nuse = ["m"]\n[[rules]]\nname = "r"\nuse = ["m"]',
        "rules[1].name",
        "rules[0] has this name",
    ),
    "no tries": ("[retry]\ntries = 0", "retry.tries", "1 or more"),
    "projects that are none": ("projects = 5", "projects", "a table is needed here"),
    "a parent that nobody is": (
        "[projects.x]\nparent = 'teem'\n[projects.team]",
        "projects.x.parent",
        "no project is called 'teem'; did you mean 'team'?",
    ),
    "a project without a name": ('[projects.""]', "projects.", "a name of 1 to 128 printable characters is needed"),
    "a project whose name nobody can read": (
        '[projects."a\\u0000b"]',
        "projects.a\0b",
        "a name of 1 to 128 printable characters is needed",
    ),
    "a project that is its own parent": ('[projects.x]\nparent = "x"', "projects.x.parent", "itself: x -> x"),
    "projects that come round": (
        '[projects.x]\nparent = "y"\n[projects.y]\nparent = "z"\n[projects.z]\nparent = "y"',
        "projects.y.parent",
        "comes round to itself: y -> z -> y",
    ),
    "a project's provider that nobody is": (
        '[projects.x]\nproviders = ["opena"]',
        "projects.x.providers",
        "no provider is called 'opena'",
    ),
    "a project's pattern": ('[projects.x]\nmodels = ["*-mini"]', "projects.x", 'ends in its only "*"'),
    "a project's profile": ('[projects.x]\nprofile = "p"', "projects.x.profile", "no profile is called 'p'"),
    "a project's key of its own": (
        '[projects.x]\nheaders = { X-Nyuro-Key-openai = "sk" }',
        "projects.x.headers.X-Nyuro-Key-openai",
        "no default can stand in",
    ),
    "a project's credential": (
        '[projects.x]\nheaders = { authorization = "Bearer x" }',
        "projects.x.headers.authorization",
        "no default can stand in",
    ),
    "a project's header that is none": (
        '[projects.x]\nheaders = { "a b" = "c" }',
        "projects.x.headers.a b",
        "no header",
    ),
    "a limit of nothing": ("[projects.x]\nlimits = { rpm = 0 }", "projects.x.limits.rpm", "1 or more"),
    "a model's limit of nothing": (MODEL + "limits = { tpm = 0 }", "models.m.limits.tpm", "1 or more"),
    "a period that is none": (
        '[projects.x]\nbudget = { limit = 1, period = "hourly" }',
        "projects.x.budget.period",
        "'monthly' is needed",
    ),
    "a budget without a limit": ("[projects.x]\nbudget = {}", "projects.x.budget.limit", "is missing"),
    "a budget below nothing": ("[projects.x]\nbudget = { limit = -1 }", "projects.x.budget.limit", "from 0 to"),
    "an alert above all": ("[projects.x]\nbudget = { limit = 1, alert = 80 }", "projects.x.budget.alert", "0 to 1"),
    "a project with no time at all": (
        '[projects.x]\ntimeouts = { idle = "0s" }',
        "projects.x.timeouts.idle",
        "more than nothing",
    ),
    "a rule for a project that nobody is": (
        MODEL + '[[rules]]\nname = "r"\nuse = ["m"]\nprojects = ["x"]',
        "rules[0].projects",
        "no project is called 'x'",
    ),
}


@each(("text", "path", "said"), WRONG.values(), ids=WRONG)
def test_nonsense_is_refused_with_its_path(text: str, path: str, said: str) -> None:
    found = problems(text, {})
    assert [problem.path for problem in found].count(path) >= 1, found
    assert any(problem.path == path and said in problem.message for problem in found), found


def test_bytes_that_are_no_utf_8_are_refused() -> None:
    with pytest.raises(TableRejected) as rejected:
        table_of(b"[server]\n# \xff\n")
    assert rejected.value.problems == (Problem("", "not UTF-8 at byte 11"),)


def test_a_problem_has_its_line_wherever_it_stands() -> None:
    text = MODEL + (
        '[models."a.b/c"]\nprovider = "p"\nquality = 200\n'
        "[profiles.x]\ncandidates = [\n  'm',\n  { model = 'm', weight = -1 },\n]\n"
    )
    assert [problem.line for problem in problems(text)] == [9, 11]  # 11 is the key's: lists have no lines of their own
    text = text.replace("-1", "1")
    assert [(problem.path, problem.line) for problem in problems(text)] == [("models.a.b/c.quality", 9)]
    two = MODEL + '[[rules]]\nname = "a"\nuse = ["m"]\n[[rules]]\nname = "b"\n\nuse = ["nobody"]\n'
    assert [(problem.path, problem.line) for problem in problems(two)] == [("rules[1].use", 13)]


def test_no_message_shows_a_key_that_stands_in_the_wrong_place() -> None:
    canary = "sk-canary-0123456789"
    for text in (
        PROVIDER.replace('api_key = "none"', f'api_keys = "{canary}"'),
        PROVIDER.replace('api_key = "none"', f'api_key = ["{canary}"]'),
        PROVIDER + f'headers = "{canary}"',
        PROVIDER + f'headers = {{ X-Y = ["{canary}"] }}',
        PROVIDER.replace("p.test", f"me:{canary}@p.test"),
        PROVIDER.replace('"none"', f'"{canary}\\n"'),
        PROVIDER + f'proxy = ["{canary}"]',
    ):
        found = problems(text)
        assert found, text
        assert canary not in str(TableRejected(found))


# -- variables, files, credentials -------------------------------------------------------------------------------


@pytest.mark.parametrize("env", [{}, {"KEY": ""}, {"KEY": "  \n"}])
def test_an_unset_or_empty_variable_is_no_problem_and_leaves_the_provider_unconfigured(env: dict[str, str]) -> None:
    provider = table_of(PROVIDER.replace('"none"', '"${KEY}"'), env).providers["p"]
    assert (provider.configured, provider.missing_key, provider.missing) == (False, "KEY is not set", "")


def test_what_is_missing_of_an_address_no_caller_can_mend() -> None:
    text = PROVIDER.replace("http://p.test/v1", "https://${HOST}/${PATH_}/v1") + 'headers = { X-Y = "${HOST}" }'
    provider = table_of(text, {}).providers["p"]
    assert (provider.configured, provider.missing) == (False, "HOST and PATH_ are not set")
    ready = table_of(text, {"HOST": "h.test", "PATH_": "x"}).providers["p"]
    assert (ready.configured, ready.base_url) == (True, "https://h.test/x/v1")
    assert ready.headers == {"X-Y": Secret("h.test")}


def test_a_set_variable_with_nonsense_in_it_is_a_problem() -> None:
    text = PROVIDER.replace("http://p.test/v1", "${URL}")
    assert [problem.path for problem in problems(text, {"URL": "not a url"})] == ["providers.p.base_url"]
    assert table_of(text, {"URL": "http://h.test/v1/"}).providers["p"].base_url == "http://h.test/v1"


def test_one_key_of_several_is_enough() -> None:
    text = PROVIDER.replace('api_key = "none"', 'api_keys = ["${A}", "${B}", "${C}"]')
    assert table_of(text, {"B": "b"}).providers["p"].credentials == (Secret("b"),)
    assert table_of(text, {"C": "c", "A": "a"}).providers["p"].credentials == (Secret("a"), Secret("c"))
    assert table_of(text, {}).providers["p"].missing_key == "A and B and C are not set"
    assert table_of(text, {"B": "b"}).warnings == (
        "providers.p.api_keys[0]: A is not set; the provider is asked with the others",
        "providers.p.api_keys[2]: C is not set; the provider is asked with the others",
    )
    assert table_of(text, {}).warnings == ()


def with_files(text: str, files: dict[str, str | Exception], env: dict[str, str] | None = None) -> Table:
    def read(path: str) -> str:
        found = files.get(path, FileNotFoundError(path))
        if isinstance(found, Exception):
            raise found
        return found

    return load(text.encode(), env=env or {}, read_file=read, dialects=UPSTREAMS.keys())


def test_a_key_in_a_file_is_read_without_its_line_end() -> None:
    table = with_files(PROVIDER.replace('"none"', '"file:/run/key"'), {"/run/key": " k-1 \n"})
    assert table.providers["p"].credentials == (Secret("k-1"),)
    assert table.warnings == ()


@each(
    ("content", "said"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        (PermissionError("/run/key"), "cannot be read: PermissionError"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"), "cannot be read: UnicodeDecodeError"),
        (ValueError("embedded null byte"), "cannot be read: ValueError"),
        ("one\ntwo", "no header carries"),
    ],
)
def test_a_key_file_that_is_of_no_use_is_a_problem(content: str | Exception, said: str) -> None:
    with pytest.raises(TableRejected, match=said) as rejected:
        with_files(PROVIDER.replace('"none"', '"file:/run/key"'), {"/run/key": content})
    assert [problem.path for problem in rejected.value.problems] == ["providers.p.api_key"]


def test_a_systemd_credential() -> None:
    text = PROVIDER.replace('"none"', '"credential:p_key"')
    directory = {"CREDENTIALS_DIRECTORY": "/run/credentials/x"}
    table = with_files(text, {"/run/credentials/x/p_key": "k-1\n"}, directory)
    assert table.providers["p"].credentials == (Secret("k-1"),)
    for files, env in (({}, {}), ({}, directory), ({"/run/credentials/x/p_key": "\n"}, directory)):
        provider = with_files(text, dict(files), env).providers["p"]
        assert (provider.configured, provider.missing_key) == (False, "the systemd credential p_key is not set")
    with pytest.raises(TableRejected, match="the systemd credential p_key cannot be read: PermissionError"):
        with_files(text, {"/run/credentials/x/p_key": PermissionError()}, directory)


def test_the_embedded_provider_needs_neither_key_nor_address() -> None:
    provider = table_of('[providers.embedded]\ndialect = "openai-chat"\n').providers["embedded"]
    assert (provider.embedded, provider.keyless, provider.configured) == (True, True, True)


# -- cycles ------------------------------------------------------------------------------------------------------

CYCLES: dict[str, tuple[str, str, str]] = {
    "an alias of itself": ('[aliases]\nx = "x"', "aliases.x", "x -> x"),
    "two aliases": ('[aliases]\nx = "y"\ny = ["m", "x;sort:price"]', "aliases.x", "x -> y -> x"),
    "an alias and a profile": (
        '[aliases]\nx = "profile:y"\n[profiles.y]\ncandidates = ["x"]',
        "aliases.x",
        "x -> profile:y -> x",
    ),
    "a profile by its bare name": (
        '[profiles.y]\ncandidates = ["m", { model = "y", weight = 1 }]',
        "profiles.y.candidates",
        "profile:y -> profile:y",
    ),
    "industries": (
        '[industries.a]\nmodels = ["industry:b"]\n[industries.b]\nmodels = ["industry:a"]',
        "industries.a.models",
        "industry:a -> industry:b -> industry:a",
    ),
    "auto of itself": ('[auto]\ncode = ["m", "auto"]', "auto", "auto -> auto"),
    "auto by way of a profile": (
        '[auto]\nchat = ["profile:y"]\n[profiles.y]\ncandidates = ["auto:floor"]',
        "auto",
        "auto -> profile:y -> auto",
    ),
    "a profile called auto": (
        '[auto]\nchat = ["m"]\n[profiles.auto]\ncandidates = ["auto"]',
        "profiles.auto.candidates",
        "profile:auto -> profile:auto",
    ),
}


@each(("text", "path", "cycle"), CYCLES.values(), ids=CYCLES)
def test_what_comes_round_to_itself_is_refused_and_printed(text: str, path: str, cycle: str) -> None:
    (found,) = problems(MODEL + text)
    assert (found.path, found.message) == (path, f"comes round to itself: {cycle}")
    assert found.line > 0


@each(
    "text",
    [
        '[aliases]\nx = ["y", "z"]\ny = "z"\nz = "m"',  # a diamond
        '[aliases]\nauto = "m"\n[auto]\nchat = ["auto"]',  # an alias hides the directive
        '[aliases]\ny = "profile:y"\n[profiles.y]\ncandidates = ["m"]',
        '[industries.y]\nmodels = ["profile:y"]\n[profiles.y]\ncandidates = ["m"]',
    ],
)
def test_what_only_looks_like_a_cycle_loads(text: str) -> None:
    assert problems(MODEL + text) == ()


def test_a_chain_of_names_is_eight_long_at_most() -> None:
    def aliases(count: int) -> str:
        return (
            MODEL + "[aliases]\n" + "".join(f'n{n} = "n{n + 1}"\n' for n in range(count - 1)) + f'n{count - 1} = "m"\n'
        )

    rule = '[[rules]]\nname = "r"\nuse = ["n0"]\n'
    assert problems(aliases(8) + rule) == ()
    (found,) = problems(aliases(9) + rule)
    assert (found.path, found.message) == ("aliases.n0", "stands for more than 8 names in a row: shorten it")


def test_chains_and_cycles_of_thousands_do_not_overflow_the_stack() -> None:
    names = [f"n{n}" for n in range(3_000)]
    chain = "".join(f'{name} = "{after}"\n' for name, after in zip(names, [*names[1:], "m"], strict=True))
    assert [problem.message for problem in problems(f"{MODEL}[aliases]\n{chain}")] == [
        "stands for more than 8 names in a row: shorten it"
    ]
    ring = "".join(f'{name} = "{after}"\n' for name, after in zip(names, [*names[1:], "n0"], strict=True))
    found = [problem.message for problem in problems(f"{MODEL}[aliases]\n{ring}")]
    assert sum(message.startswith("comes round to itself: n0 -> n1 -> ") for message in found) == 1


def test_problems_print_as_a_person_reads_them() -> None:
    assert str(Problem("a.b", "is wrong", 7)) == "line 7: a.b: is wrong"
    assert str(Problem("a.b", "is wrong")) == "a.b: is wrong"
    assert str(Problem("", "is wrong", 7)) == "line 7: is wrong"


MASTER = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="
MASTERS: dict[str, tuple[str, dict[str, str], str | None, str]] = {
    "of the environment, as it is": ("", {"POINTSMAN_MASTER_KEY": MASTER}, MASTER, ""),
    "of nowhere": ("", {}, None, "POINTSMAN_MASTER_KEY is not set"),
    "of another variable": ('master_key = "${MINE}"', {"MINE": MASTER}, MASTER, ""),
    "of a systemd credential": ('master_key = "credential:master"', {"CREDENTIALS_DIRECTORY": "/run"}, MASTER, ""),
    "of a systemd that gives none": (
        'master_key = "credential:none"',
        {},
        None,
        "the systemd credential none is not set",
    ),
}


@each(("line", "env", "key", "missing"), MASTERS.values(), ids=MASTERS)
def test_a_master_key_comes_from_where_it_is_named(
    line: str, env: dict[str, str], key: str | None, missing: str
) -> None:
    def read_file(name: str) -> str:
        if name == "/run/master":
            return MASTER + "\n"
        raise FileNotFoundError(name)

    raw = f"[server]\n{line}\n".encode()
    found = load(raw, env=env, read_file=read_file, dialects=("openai-chat",))
    assert (found.master_key and found.master_key.reveal(), found.no_master_key) == (key, missing)
    assert key is None or key in {secret.reveal() for secret in found.secrets}
    assert MASTER not in repr(found)


def test_a_master_key_that_is_none_is_refused_and_not_repeated() -> None:
    with pytest.raises(TableRejected) as refused:
        load(b'[server]\nmaster_key = "not-one"\n', env={}, read_file=lambda name: "", dialects=("openai-chat",))
    (problem,) = refused.value.problems
    assert (problem.path, problem.line) == ("server.master_key", 2)
    assert "32 bytes are needed" in problem.message
    assert "not-one" not in problem.message
