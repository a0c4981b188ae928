"""A page about the interface, made from its OpenAPI description: no script, nothing from elsewhere."""

from __future__ import annotations

import json
import re
from html import escape
from typing import Any


def reference(description: dict) -> str:
    """The HTML page."""
    info, parts = description["info"], description.get("components", {}).get("schemas", {})
    operations = [
        (path, method, operation)
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    ]
    about = "".join(f"<p>{_code(escape(text))}</p>" for text in info["description"].split("\n\n"))
    links = "".join(
        f'<li><a href="#{escape(operation["operationId"])}"><code>{method.upper()} {escape(path)}</code></a></li>'
        for path, method, operation in operations
    )
    sections = "".join(_operation(path, method, operation, parts) for path, method, operation in operations)
    schemas = "".join(_schema(name, parts[name], parts) for name in sorted(parts))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(info["title"])}: interface</title>
<link rel="icon" href="icon.svg">
<link rel="stylesheet" href="style.css">
</head>
<body>
<header><h1>{escape(info["title"])} {escape(info["version"])}</h1>
<nav><a href="./">Recommendations</a> <a href="openapi.json">OpenAPI description</a></nav></header>
<main>
{about}
<ul>{links}</ul>
{sections}
<h2>Bodies and answers</h2>
{schemas}
</main>
</body>
</html>
"""


def _code(text: str) -> str:
    return re.sub("`([^`]*)`", r"<code>\1</code>", text)


def _operation(path: str, method: str, operation: dict, parts: dict) -> str:
    rows = [
        (each["name"], each["in"], each.get("required", False), each["schema"], each.get("description", ""))
        for each in operation.get("parameters", ())
    ]
    body = operation.get("requestBody")
    if body is not None:
        (content,) = body["content"].values()
        rows.append(("body", "body", body.get("required", False), content["schema"], "JSON"))
    table = _table(
        ("Parameter", "In", "Type", "Meaning"),
        [
            (f"<code>{escape(name)}</code>", escape(where), _type(schema, needed), escape(meaning))
            for name, where, needed, schema, meaning in rows
        ],
    )
    answers = _table(
        ("Status", "Answer", "Meaning"),
        [
            (status, _answer(answer), escape(answer["description"]))
            for status, answer in sorted(operation["responses"].items())
        ],
    )
    return f"""<section id="{escape(operation["operationId"])}">
<h2><code>{method.upper()} {escape(path)}</code></h2>
<p>{escape(operation.get("description", operation.get("summary", "")))}</p>
{table if rows else ""}
{answers}
</section>
"""


def _schema(name: str, schema: dict, parts: dict) -> str:
    needed = schema.get("required", ())
    rows = [
        (f"<code>{escape(key)}</code>", _type(value, key in needed), escape(value.get("description", "")))
        for key, value in schema.get("properties", {}).items()
    ]
    table = _table(("Field", "Type", "Meaning"), rows)
    return (
        f'<section id="schema-{escape(name)}"><h3>{escape(name)}</h3><p>{escape(schema.get("description", ""))}</p>'
        f"{table}</section>\n"
    )


def _answer(answer: dict) -> str:
    content = answer.get("content", {})
    schemas = [each["schema"] for each in content.values() if "schema" in each]
    return _type(schemas[0], True) if schemas and "$ref" in schemas[0] else escape(", ".join(content))


def _type(schema: dict[str, Any], needed: bool) -> str:
    """A type in words, with its limits, and its default if it need not be given."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#schema-{name}">{name}</a>'
    if "anyOf" in schema:
        text = " or ".join(_type(each, True) for each in schema["anyOf"])
    elif schema.get("type") == "array":
        text = f"list of {_type(schema['items'], True)}{_limits(schema, 'minItems', 'maxItems')}"
    else:
        text = escape(schema.get("type", "anything"))
        text += _limits(schema, "minimum", "maximum") + _limits(schema, "minLength", "maxLength")
    default = "" if needed or "default" not in schema else f", {escape(json.dumps(schema['default']))} if not given"
    return text + default


def _limits(schema: dict, least: str, most: str) -> str:
    known = [(word, schema[key]) for word, key in (("at least", least), ("at most", most)) if key in schema]
    what = {"minItems": " long", "minLength": " characters"}.get(least, "")
    return f" ({', '.join(f'{word} {value}' for word, value in known)}{what})" if known else ""


def _table(head: tuple, rows: list[tuple]) -> str:
    heads = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>'
    )
