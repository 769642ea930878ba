"""What the viewer refuses: other origins, other names, no token, strange paths, writes to runs."""

import hashlib
import os
from pathlib import Path

import pytest

from view_place import HOST, ORIGIN, PORT, Asked, Headers, small_run

STRANGE_PATHS = (
    "/run/../../etc/passwd",
    "/run/%2e%2e/%2e%2e/etc/passwd",
    "/static/../guard.py",
    "/static/%2e%2e%2fguard.py",
    "/static/..%5cguard.py",
    "/static//etc/passwd",
    "/static/marks.css/../../../config.json",
    "//evil.example/",
    "/run/KEY/prompt/0/../../../config.json",
    "/run/KEY/prompt/0/%27%20OR%201%3D1",
    "/run/KEY/prompt/0/x'); ATTACH '/tmp/x' AS y; --",
    "/run/KEY/journal/part-00000.sqlite",
    "/run/KEY/config.json",
)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    return Asked(small_run(tmp_path_factory.mktemp("runs") / "run", prompts=20))


def headers_of(asked: Asked, **changed: str | None) -> Headers:
    """The headers of our own page, with some changed, or left out with None."""
    known = {"host": HOST, "cookie": asked.cookie} | changed
    return [(name.replace("_", "-"), value) for name, value in known.items() if value is not None]


@pytest.mark.parametrize(
    "changed",
    [
        {"cookie": None},
        {"cookie": ""},
        {"cookie": f"prefine_view_{PORT}=another"},
        {"cookie": f"prefine_view_{PORT}="},
        {"cookie": "prefine_view_4322=the-secret"},
        {"cookie": f'prefine_view_{PORT}="; the-secret'},
        {"cookie": f"prefine_view_{PORT}=thé-secret"},
        {"host": None},
        {"host": "evil.example"},
        {"host": f"evil.example:{PORT}"},
        {"host": "127.0.0.1"},
        {"host": "127.0.0.1:80"},
        {"host": f"127.0.0.1:{PORT}.evil.example"},
        {"host": f"127.0.0.1.evil.example:{PORT}"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": f"https://{HOST}"},
        {"origin": "http://127.0.0.1:8080"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ],
    ids=str,
)
def test_requests_from_elsewhere_are_refused(asked: Asked, changed: dict[str, str | None]) -> None:
    for path in ("/", "/static/view.css", f"/run/{asked.key()}/prompts", "/nothing"):
        answer = asked.ask("GET", path, headers_of(asked, **changed))
        assert answer.status == 403
        assert "question" not in answer.text and asked.access.token not in answer.text


@pytest.mark.parametrize("other", ['a={"x":1}', "b=a b c", "[c]=1", "=", "d", "é=é"])
def test_cookies_of_other_apps_lock_nobody_out(asked: Asked, other: str) -> None:
    for cookie in (f"{other}; {asked.cookie}", f"{asked.cookie}; {other}"):
        assert asked.ask("GET", "/", headers_of(asked, cookie=cookie)).status == 200


def test_a_header_that_is_there_twice_is_refused(asked: Asked) -> None:
    for more in (("host", "evil.example"), ("cookie", "a=b"), ("origin", ORIGIN)):
        given = [*headers_of(asked, origin=ORIGIN), more]
        assert asked.ask("GET", "/", given).status == 403


@pytest.mark.parametrize("query", ["token=", "token=wrong", "token=the-secret&token=the-secret"])
def test_a_wrong_token_opens_nothing(asked: Asked, query: str) -> None:
    answer = asked.ask("GET", f"/?{query}", [("host", HOST)])
    assert answer.status == 403
    assert "set-cookie" not in answer.headers


def test_the_link_sets_a_cookie_and_takes_the_token_out_of_the_address(asked: Asked) -> None:
    answer = asked.ask("GET", "/run/x?token=the-secret&sort=gap", [("host", HOST)])
    assert (answer.status, answer.headers["location"]) == (303, "/run/x?sort=gap")
    assert answer.headers["set-cookie"] == (
        f"prefine_view_{PORT}=the-secret; HttpOnly; Path=/; SameSite=strict"
    )
    # Also for who has the cookie already.
    again = asked.ask("GET", "/?token=the-secret", headers_of(asked))
    assert (again.status, again.headers["location"]) == (303, "/")
    # Two slashes would be the name of a host.
    answer = asked.ask("GET", "//evil.example/?token=the-secret", [("host", HOST)])
    assert answer.headers["location"] == "/evil.example/"
    # The token opens nothing from a page of another site.
    elsewhere = [("host", HOST), ("sec-fetch-site", "cross-site")]
    assert asked.ask("GET", "/?token=the-secret", elsewhere).status == 403


def test_every_answer_forbids_what_pages_do_not_need(asked: Asked) -> None:
    for path, given in (("/", headers_of(asked)), ("/", []), ("/nothing", headers_of(asked))):
        headers = asked.ask("GET", path, given).headers
        assert headers["content-security-policy"] == (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
            "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize("path", STRANGE_PATHS)
def test_strange_paths_lead_nowhere(asked: Asked, path: str) -> None:
    answer = asked.ask("GET", path.replace("KEY", asked.key()), headers_of(asked))
    assert answer.status == 404
    assert "root:" not in answer.text and "schema_version" not in answer.text


@pytest.mark.parametrize(
    "query",
    [
        "sort=number;DROP TABLE facts",
        "sort=shown",
        "outcome=won' OR '1'='1",
        "page=-1",
        "page=99999999999",
        "round=0x1",
        "shortest=nan",
        "longest=1e999",
        "disagree=all",
        "truncated=yes",
        "use=any",
        "scope=files",
    ],
)
def test_values_that_a_filter_does_not_have_are_refused(asked: Asked, query: str) -> None:
    answer = asked.get(f"/run/{asked.key()}/prompts?{query.replace(' ', '%20')}")
    assert answer.status == 400
    assert query.split("=")[0] in answer.text


@pytest.mark.parametrize(
    "query",
    [
        "q='; DROP TABLE facts; --",
        "source=' OR 1=1 --",
        "constraint=$q",
        "q=%25",
        "q=\\",
        "q=$files",
    ],
)
def test_values_are_never_sql(asked: Asked, query: str) -> None:
    answer = asked.get(f"/run/{asked.key()}/prompts?{query.replace(' ', '%20')}")
    assert answer.status == 200
    assert "0 prompts" in answer.text
    assert "80 prompts" in asked.get(f"/run/{asked.key()}/prompts").text


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_other_methods_are_refused(asked: Asked, method: str) -> None:
    for path in ("/", f"/run/{asked.key()}"):
        given = headers_of(asked, origin=ORIGIN)
        assert asked.ask(method, path, given).status in (403, 405)


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"origin": None}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"cookie": None}, 403),
        ({"content_type": "text/plain"}, 415),
        ({"content_type": "multipart/form-data; boundary=x"}, 415),
        ({"content_type": "application/json"}, 415),
    ],
    ids=str,
)
def test_notes_are_taken_from_our_own_pages_alone(
    asked: Asked, changed: dict[str, str | None], status: int
) -> None:
    known = {"origin": ORIGIN, "content_type": "application/x-www-form-urlencoded"}
    given = headers_of(asked, **(known | changed))
    body = b"prompt_id=x&round=0&note=hello"
    assert asked.ask("POST", f"/run/{asked.key()}/note", given, body).status == status
    # The token in an address is no leave to write.
    address = f"/run/{asked.key()}/note?token=the-secret"
    assert asked.ask("POST", address, headers_of(asked, cookie=None, origin=ORIGIN)).status == 403


def test_a_run_is_not_written_to(asked: Asked) -> None:
    (folder,) = asked.viewer.roots
    before = state_of(folder)
    for path in ("/", "", "/prompts", "/prompts?q=ba", "/prompts?sort=gap", "/notes.jsonl"):
        asked.get(path if path == "/" else f"/run/{asked.key()}{path}")
    assert state_of(folder) == before


def state_of(folder: Path) -> dict[str, tuple[str, int]]:
    """The content and the time of every file."""
    return {
        str(path): (hashlib.sha256(path.read_bytes()).hexdigest(), os.stat(path).st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }
