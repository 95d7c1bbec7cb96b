"""The description of the API (``openapi.json``) is that of the API as served: it has each request
and no other, and schemathesis finds no answer of the real server that is not described, and no
failure of the server, on either kind of repository."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from conftest import Process, ServerProcess
from kinds import both

from locklane_client import Key, wire
from locklane_client.address import Address
from locklane_server import api
from locklane_server.requests import REQUESTS
from locklane_server.transports import TRANSPORTS

SPEC: dict[str, Any] = json.loads(
    resources.files("locklane_server").joinpath("openapi.json").read_text(encoding="utf-8")
)

SCHEMATHESIS = str(Path(sys.executable).with_name("schemathesis"))

EXAMPLES = int(os.environ.get("API_EXAMPLES", "3"))
"""Random requests to each operation, besides some thousand that are worked out; with more than
these few (``make fuzz-api``) they are others each time."""

SECONDS = 100 + 20 * EXAMPLES
"""Within which it is done."""

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "allow_header_conformance",
    "missing_required_header",
)


def served() -> set[tuple[str, str]]:
    """Method and name of each request that any server answers."""
    requests = set(REQUESTS)
    for transport in TRANSPORTS.values():
        requests |= set(transport().requests)
    return requests


def described() -> set[tuple[str, str]]:
    """The same of those that the description has."""
    found = set()
    for path, item in SPEC["paths"].items():
        if path == "/health":  # which is not a repository's
            continue
        match = re.fullmatch(r"/git-annex/\{uuid\}/(?:\{version\}/)?([a-z-]+)(/\{key\})?", path)
        assert match, path
        found |= {(method.upper(), match[1]) for method in item if method != "parameters"}
    return found


def test_every_request_is_described_and_every_one_described_is_served() -> None:
    assert described() == served()


def test_the_versions_described_are_those_that_are_spoken() -> None:
    parameters = SPEC["components"]["parameters"]
    for name, first in (("version", 0), ("sinceV1", 1), ("sinceV3", 3)):
        versions = parameters[name]["schema"]["enum"]
        assert versions == [f"v{version}" for version in sorted(wire.VERSIONS) if version >= first]


def test_whatever_a_repository_refuses_has_a_status_that_is_described() -> None:
    put = SPEC["paths"]["/git-annex/{uuid}/{version}/put"]["post"]
    assert {str(status) for status in api._STATUS.values()} <= set(put["responses"])


def test_keys_look_as_described() -> None:
    pattern = re.compile(SPEC["components"]["schemas"]["Key"]["pattern"])
    for text in ("SHA256E-s10--ab12.txt", "WORM-s1-m2--a/b", "X-s1-S5-C2--n", "URL--http&c%%a"):
        assert pattern.fullmatch(Key.parse(text).text)
    for text in ("SHA256E", "SHA256E-s01--a", "-s1--a", "A-s1-x--", "A--"):
        assert not pattern.fullmatch(text)
        with pytest.raises(ValueError, match="not a git-annex key"):
            Key.parse(text)


def a_description_with(keys: list[Key]) -> dict[str, Any]:
    """The description, in which many a key is one whose content is here."""
    spec: dict[str, Any] = json.loads(json.dumps(SPEC))
    schemas = spec["components"]["schemas"]
    schemas["Key"] = {
        "anyOf": [{"type": "string", "enum": [key.text for key in keys]}, schemas["Key"]]
    }
    return spec


@both
@pytest.mark.timeout(SECONDS + 60)
def test_schemathesis_finds_no_failure_of_the_server_and_nothing_that_is_not_described(
    server_process: Callable[..., ServerProcess], keys: list[Key], tmp_path: Path
) -> None:
    server = server_process()
    address = Address.parse(server.url)
    spec = tmp_path / "openapi.json"
    spec.write_text(json.dumps(a_description_with(keys)))
    settings = tmp_path / "schemathesis.toml"
    settings.write_text(
        f'[parameters]\n"path.uuid" = "{address.uuid}"\n'
        # Said when it is meant, with a sentence: a disk is full, or something is at its limit.
        "[checks]\n"
        'not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 503, 507]\n'
    )
    command = [SCHEMATHESIS, f"--config-file={settings}", "run", str(spec)]
    command += [f"--url=http://{address.authority}", f"--checks={','.join(CHECKS)}"]
    command += [f"--max-examples={EXAMPLES}", "--continue-on-failure", "--no-color"]
    command += ["--output-sanitize=false", "--warnings=off"]
    few = EXAMPLES <= 3
    command.append("--generation-deterministic" if few else "--generation-database=none")
    with Process(*command, cwd=tmp_path) as schemathesis:
        status = schemathesis.wait(SECONDS)
        assert status == 0, schemathesis.output
    assert server.running
    assert not re.search(r"Traceback|ERROR|failed", server.output), server.output
