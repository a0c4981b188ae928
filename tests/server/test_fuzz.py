"""Requests of any kind: each gets an answer that the OpenAPI description has, and none is an error of the server.

results/serve.md has a longer run, by schemathesis.
"""

import json
import os
import re
from urllib.parse import quote

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.server.bundles import ODD_USERS

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", 250))
# known to users and items alike, or to neither
KNOWN, OTHER = st.sampled_from(ODD_USERS), st.sampled_from(["", "u1", "i1"]) | st.text(max_size=30)
IDS = st.integers(0, 9).flatmap(lambda n: KNOWN if n else OTHER)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | IDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
SENTENCE = re.compile(r"[^\n\r]+")


def of(schema, described):
    """Values that a schema allows, as far as it is written here, and others."""
    if "$ref" in schema:
        schema = described["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        return st.one_of([of(each, described) for each in schema["anyOf"]]) | ANYTHING
    fitting = {
        "string": IDS,
        "integer": st.one_of(*[st.integers(1, 30)] * 6, st.integers(0, 31), st.integers()),
        "boolean": st.booleans(),
        "array": st.deferred(
            lambda: st.lists(of(schema["items"], described), min_size=min(1, schema.get("minItems", 0)), max_size=4)
        ),
        "object": st.deferred(lambda: object_of(schema, described)),
    }.get(schema.get("type"), st.none())
    # mostly what fits, or one wrong value in a dozen would leave nothing to answer
    return st.integers(0, 15).flatmap(lambda n: fitting if n else ANYTHING)


def object_of(schema, described):
    fields = {name: of(each, described) for name, each in schema.get("properties", {}).items()}
    needed = {name: fields[name] for name in schema.get("required", ())}
    others = {name: fields[name] for name in fields if name not in needed}
    whole = st.fixed_dictionaries(needed, optional=others)
    return st.one_of(whole, whole, whole, st.fixed_dictionaries({}, optional=fields))


def requests(described):
    """(method, pattern of the path, path with its query, body) of any operation."""

    @st.composite
    def request(draw):
        path, method = draw(st.sampled_from([(p, m) for p, methods in described["paths"].items() for m in methods]))
        operation, filled, query = described["paths"][path][method], path, []
        for each in operation.get("parameters", ()):
            value = draw(of(each["schema"], described))
            text = quote(value if isinstance(value, str) else json.dumps(value), safe=draw(st.sampled_from(["", "/"])))
            if each["in"] == "path":
                filled = filled.replace(f"{{{each['name']}}}", text)
            elif draw(st.booleans()):
                query.append(f"{each['name']}={text}")
        body = None
        if "requestBody" in operation:
            (content,) = operation["requestBody"]["content"].values()
            body = json.dumps(draw(of(content["schema"], described))).encode()
            if draw(st.integers(0, 9)) == 0:
                body = draw(st.binary(max_size=40)) + body[draw(st.integers(0, len(body))) :]
        return method.upper(), path, filled + ("?" + "&".join(query) if query else ""), body

    # halves of characters cannot be sent in a path
    return request().filter(lambda made: made[2].isascii())


def fits(value, schema, described):
    """Whether an answer is what its schema says."""
    if "$ref" in schema:
        schema = described["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        return any(fits(value, each, described) for each in schema["anyOf"])
    kind = schema["type"]
    if kind == "object":
        known = schema["properties"]
        return (
            isinstance(value, dict)
            and set(schema.get("required", ())) <= set(value) <= set(known)
            and all(fits(value[name], known[name], described) for name in value)
        )
    if kind == "array":
        return isinstance(value, list) and all(fits(each, schema["items"], described) for each in value)
    types = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None)}
    return isinstance(value, types[kind])


def test_no_request_is_an_error_of_the_server(server):
    described = server.ask("/openapi.json").json
    seen = set()

    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(requests(described))
    def answered(request):
        method, pattern, path, body = request
        answer = server.ask(path, body, method=method)
        seen.add((pattern, answer.status))
        assert answer.status < 500, answer
        if pattern == "/metrics":
            assert answer.status == 200
            return
        described_as = described["paths"][pattern][method.lower()]["responses"].get(str(answer.status))
        if answer.status == 413 or described_as is None:
            # /items/ is no item
            assert answer.status in (404, 413) and set(answer.json) == {"error"}
            return
        (content,) = described_as["content"].values()
        assert fits(answer.json, content["schema"], described), answer
        assert answer.status == 200 or SENTENCE.fullmatch(answer.json["error"])

    answered()
    statuses = {status for _, status in seen}
    assert {200, 404, 422} <= statuses
    # most routes are reached with what they accept, whatever this release of hypothesis draws
    assert len({pattern for pattern, status in seen if status == 200}) >= len(described["paths"]) - 1
