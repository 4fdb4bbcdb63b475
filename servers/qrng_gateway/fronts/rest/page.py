"""The description of the API for people: one page of HTML, made of the OpenAPI document.

Idea: the page is made once, here, and loads nothing. Its policy allows one style, by its hash, and no script at all.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from html import escape
from typing import Any

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24 }
h2 { margin-top: 2.5rem; border-top: 1px solid #d0d7de; padding-top: 1rem } h2 small { font-weight: normal }
code { background: #f3f4f6; padding: .1em .3em; border-radius: 3px }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; vertical-align: top; padding: .3rem .6rem }
td, th { border-bottom: 1px solid #d0d7de }
"""
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

PAGE_HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}


def page(document: dict[str, Any]) -> str:
    """Return the page for an OpenAPI `document` of ours."""
    info = document["info"]
    return "\n".join(
        [
            f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{escape(info["title"])}</title>',
            f"<style>{_STYLE}</style>",
            f"<h1>{escape(info['title'])} <small>{escape(info['version'])}</small></h1>",
            *(f"<p>{_marked(paragraph)}</p>" for paragraph in info["description"].split("\n\n")),
            '<p>For programs: <a href="openapi.json">openapi.json</a>.</p>',
            *(
                line
                for path, operations in document["paths"].items()
                for verb, operation in operations.items()
                for line in _operation(document, f"{verb.upper()} {path}", operation)
            ),
            "</html>\n",
        ]
    )


def _operation(document: dict[str, Any], name: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f'<h2 id="{escape(operation["operationId"])}"><code>{escape(name)}</code></h2>'
    yield f"<p>{_marked(operation['summary'])}. {_marked(operation.get('description', ''))}</p>"
    if operation.get("security") == []:
        yield "<p>Needs no key.</p>"
    if operation.get("parameters"):
        yield "<table><tr><th>parameter<th>values<th>meaning</tr>"
        for parameter in operation["parameters"]:
            yield _row(
                f"<code>{escape(parameter['name'])}</code>", _values(parameter), _marked(parameter["description"])
            )
        yield "</table>"
    yield "<table><tr><th>status<th>type<th>meaning</tr>"
    for status, response in operation["responses"].items():
        told = _resolved(document, response)
        yield _row(escape(status), escape(", ".join(told.get("content", ()))), _marked(told["description"]))
    yield "</table>"


def _resolved(document: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """Return what a reference into `document` stands for; anything else as it is."""
    if "$ref" not in part:
        return part
    found: dict[str, Any] = document
    for step in part["$ref"].removeprefix("#/").split("/"):
        found = found[step]
    return found


def _values(parameter: dict[str, Any]) -> str:
    schema = parameter["schema"]
    if "enum" in schema:
        values = " ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    elif schema["type"] == "integer":
        values = f"{schema['minimum']} to {schema['maximum']}"
    else:
        values = escape(schema["type"])
    if parameter.get("required"):
        return f"{values}; required"
    if "default" in schema:
        default = schema["default"] if isinstance(schema["default"], str) else json.dumps(schema["default"])
        return f"{values}; default <code>{escape(default)}</code>"
    return values


def _row(*cells: str) -> str:
    return f"<tr>{''.join(f'<td>{cell}' for cell in cells)}</tr>"


def _marked(text: str) -> str:
    """Return `text` as HTML, with what stands between backquotes as code."""
    plain, *rest = escape(text).split("`")
    marked = [f"<code>{part}</code>" if index % 2 == 0 else part for index, part in enumerate(rest)]
    return plain + "".join(marked)
