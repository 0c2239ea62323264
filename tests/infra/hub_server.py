"""A model hub on this machine: the HTTP of huggingface.co that `huggingface_hub` speaks, over real sockets.

Lists with `Link` pages, info, tree, resolve with its headers and the redirect of LFS files to another origin (the
"CDN"), ETag, Range, gates, and on demand everything that goes wrong: 429, a cut connection, wrong bytes, silence.
"""

from __future__ import annotations

import json
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from tests.infra.hub_repositories import Commit, HubFile, Repository, info, is_lfs, listed, tree

_CHUNK = 1 << 16
_MODEL = re.compile(r"/api/models/(?P<id>[^/]+/[^/]+)(?:/revision/(?P<revision>[^/]+))?")
_AUTH = re.compile(r"/api/models/(?P<id>[^/]+/[^/]+)/auth-check")
_TREE = re.compile(r"/api/models/(?P<id>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)(?:/(?P<path>.*))?")
_RESOLVE = re.compile(r"/(?P<id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
_BLOB = re.compile(r"/blobs/(?P<sha256>[0-9a-f]{64})")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request.

    Attributes:
        status: Answer with this status instead of serving; 0 serves.
        retry_after_s: `Retry-After` of that answer; None leaves it out.
        cut_after: Close the connection after this many bytes of the body.
        wrong_at: Change the byte at this place of the file.
        hang: Answer nothing until the server ends.
        hold_after: Send this many bytes of the body, and the rest when `HubServer.go_on` is set.
        ignore_range: Serve the whole file with 200 whatever was asked for.
    """

    status: int = 0
    retry_after_s: int | None = None
    cut_after: int | None = None
    wrong_at: int | None = None
    hang: bool = False
    hold_after: int | None = None
    ignore_range: bool = False


@dataclass(frozen=True)
class SeenRequest:
    """One request as it came. `kind`: "list", "info", "auth", "tree", "resolve" or "cdn"."""

    kind: str
    method: str
    target: str
    range: str
    token: str


@dataclass
class HubServer:
    """Repositories, faults to come and requests seen. `endpoint` is the base URL, `cdn` the other origin."""

    page_max: int = 1000
    repositories: dict[str, Repository] = field(default_factory=dict)
    endpoint: str = ""
    cdn: str = ""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: dict[str, deque[Fault]] = {}
        self._seen: list[SeenRequest] = []
        self.ended = threading.Event()
        self.go_on = threading.Event()

    def add(self, repository: Repository) -> Repository:
        self.repositories[repository.id] = repository
        return repository

    def fail_next(self, kind: str, *faults: Fault) -> None:
        """Let the next requests of a kind go wrong, in this order, and those after them well."""
        with self._lock:
            self._faults.setdefault(kind, deque()).extend(faults)

    def seen(self, kind: str = "") -> list[SeenRequest]:
        """Requests so far, oldest first."""
        with self._lock:
            return [request for request in self._seen if kind in ("", request.kind)]

    def forget(self) -> None:
        """Drop what was seen and what was to go wrong."""
        with self._lock:
            self._seen.clear()
            self._faults.clear()

    def take(self, request: SeenRequest) -> Fault:
        """Note a request; what goes wrong with it."""
        with self._lock:
            self._seen.append(request)
            faults = self._faults.get(request.kind)
            return faults.popleft() if faults else Fault()

    def blob(self, sha256: str) -> HubFile | None:
        """An LFS file of any commit."""
        files = (
            file for repository in self.repositories.values() for commit in repository.commits
            for name, file in commit.files.items() if is_lfs(name)
        )  # fmt: skip
        return next((file for file in files if file.sha256 == sha256), None)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        return

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        raise NotImplementedError

    def _begin(self, kind: str) -> Fault | None:
        """Note the request; None where a fault has answered it."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        fault = self.hub.take(SeenRequest(kind, self.command, self.path, self.headers.get("Range", ""), token))
        if fault.hang:
            self.hub.ended.wait()
            self.close_connection = True
            return None
        if fault.status:
            headers = {} if fault.retry_after_s is None else {"Retry-After": str(fault.retry_after_s)}
            if fault.status == 429:
                headers["RateLimit"] = f'"api";r=0;t={fault.retry_after_s or 0}'
            self._json(fault.status, {"error": "told to fail"}, headers)
            return None
        return fault

    def _json(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._json(status, {"error": message}, {"X-Error-Code": code, "X-Error-Message": message})

    def _file(self, file: HubFile, headers: dict[str, str], fault: Fault) -> None:
        asked = _RANGE.fullmatch(self.headers.get("Range", ""))
        start, end = 0, file.size
        if asked and not fault.ignore_range:
            start = int(asked[1])
            end = min(int(asked[2]) + 1 if asked[2] else file.size, file.size)
            if start >= file.size:
                self._json(416, {"error": "no such range"}, {"Content-Range": f"bytes */{file.size}"})
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{file.size}")
        else:
            self.send_response(200)
        for name, value in {"Accept-Ranges": "bytes", "Content-Length": str(end - start), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self._send(file, start, end, fault)

    def _send(self, file: HubFile, start: int, end: int, fault: Fault) -> None:
        stop = end if fault.cut_after is None else min(end, start + fault.cut_after)
        for at in range(start, stop, _CHUNK):
            if fault.hold_after is not None and at - start >= fault.hold_after:
                self.hub.go_on.wait()
            part = bytearray(file.read(at, min(_CHUNK, stop - at)))
            if fault.wrong_at is not None and at <= fault.wrong_at < at + len(part):
                part[fault.wrong_at - at] ^= 0xFF
            try:
                self.wfile.write(part)
            except OSError:
                # Who asked has gone.
                self.close_connection = True
                return
        if stop < end:
            self.close_connection = True


class _HubHandler(_Handler):
    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        query = parse_qs(urlsplit(self.path).query)
        if path == "/api/models":
            self._list(query)
        elif found := _AUTH.fullmatch(path):
            self._auth_check(found["id"])
        elif found := _TREE.fullmatch(path):
            self._tree(found["id"], found["revision"])
        elif found := _MODEL.fullmatch(path):
            self._info(found["id"], found["revision"] or "main", query)
        elif found := _RESOLVE.fullmatch(path):
            self._resolve(found["id"], found["revision"], found["path"])
        else:
            self._json(404, {"error": "Not Found"})

    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _list(self, query: dict[str, list[str]]) -> None:
        if self._begin("list") is None:
            return
        shown = [
            listed(whole, full=_yes(query, "full"), config=_yes(query, "config"), card=_yes(query, "cardData"))
            for repository in sorted(self.hub.repositories.values(), key=lambda one: one.id.lower())
            if self._may_see(repository)
            and _matches(whole := info(repository, repository.commits[-1], blobs=False), query)
        ]
        start = int(query.get("cursor", ["0"])[0])
        size = min(int(query.get("limit", [str(self.hub.page_max)])[0]), self.hub.page_max)
        headers = {}
        if start + size < len(shown):
            more = urlencode({**query, "cursor": [start + size]}, doseq=True)
            headers["Link"] = f'<{self.hub.endpoint}/api/models?{more}>; rel="next"'
        self._json(200, shown[start : start + size], headers)

    def _info(self, model: str, revision: str, query: dict[str, list[str]]) -> None:
        if self._begin("info") is not None and (found := self._visible(model, revision)):
            self._json(200, info(*found, blobs=_yes(query, "blobs")))

    def _tree(self, model: str, revision: str) -> None:
        if self._begin("tree") is not None and (found := self._visible(model, revision)):
            self._json(200, tree(found[1]))

    def _auth_check(self, model: str) -> None:
        if self._begin("auth") is not None and (found := self._visible(model, "main")) and self._admitted(found[0]):
            self._json(200, {})

    def _resolve(self, model: str, revision: str, path: str) -> None:
        fault = self._begin("resolve")
        found = None if fault is None else self._visible(model, revision)
        if fault is None or found is None or not self._admitted(found[0]):
            return
        commit = found[1]
        file = commit.files.get(path)
        if file is None:
            self._refuse(404, "EntryNotFound", "Entry not found")
            return
        headers = {"X-Repo-Commit": commit.sha}
        if not is_lfs(path):
            self._file(file, {**headers, "ETag": f'"{file.git_oid}"', "Content-Type": "text/plain"}, fault)
            return
        self.send_response(302)
        headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size), "ETag": f'"{commit.sha}"'}
        location = f"{self.hub.cdn}/blobs/{file.sha256}?filename={quote(path)}&signature=of-a-while"
        for name, value in {**headers, "Location": location, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()

    def _may_see(self, repository: Repository) -> bool:
        return not repository.private or self._token() in repository.admitted

    def _visible(self, model: str, revision: str) -> tuple[Repository, Commit] | None:
        """A repository at a revision, or None after saying why there is none."""
        repository = self.hub.repositories.get(model)
        if repository is None or not self._may_see(repository):
            # To a stranger, what does not exist and what is private look alike.
            self._refuse(404 if self._token() else 401, "RepoNotFound", "Repository not found")
            return None
        if repository.disabled:
            self._refuse(403, "Disabled", "Access to this resource is disabled.")
            return None
        commit = repository.at(revision)
        if commit is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return repository, commit

    def _admitted(self, repository: Repository) -> bool:
        if not repository.gated or self._token() in repository.admitted:
            return True
        named = f"Access to model {repository.id} is restricted"
        if self._token():
            self._refuse(403, "GatedRepo", f"{named} and you are not in the authorized list.")
        else:
            self._refuse(401, "GatedRepo", f"{named}. You must be authenticated to access it. Please log in.")
        return False


class _CdnHandler(_Handler):
    def _answer(self) -> None:
        fault = self._begin("cdn")
        if fault is None:
            return
        found = _BLOB.fullmatch(urlsplit(self.path).path)
        file = self.hub.blob(found["sha256"]) if found else None
        if file is None:
            self._json(404, {"error": "Not Found"})
            return
        self._file(file, {"ETag": f'"{file.sha256}"', "Content-Type": "application/octet-stream"}, fault)


def _yes(query: dict[str, list[str]], name: str) -> bool:
    return query.get(name, [""])[0].lower() == "true"


def _matches(whole: dict[str, Any], query: dict[str, list[str]]) -> bool:
    tests: list[Callable[[], bool]] = [
        lambda: all(wanted in whole["tags"] for wanted in query.get("filter", [])),
        lambda: query.get("author", [whole["author"]]) == [whole["author"]],
        lambda: query.get("search", [""])[0].lower() in whole["id"].lower(),
        lambda: query.get("pipeline_tag", [whole.get("pipeline_tag")]) == [whole.get("pipeline_tag")],
    ]
    return all(test() for test in tests)


@contextmanager
def hub_server(*repositories: Repository, page_max: int = 1000) -> Iterator[HubServer]:
    """A hub and its CDN for the length of the block."""
    hub = HubServer(page_max=page_max)
    for repository in repositories:
        hub.add(repository)
    servers = [
        ThreadingHTTPServer(("127.0.0.1", 0), type(handler.__name__, (handler,), {"hub": hub}))
        for handler in (_HubHandler, _CdnHandler)
    ]
    hub.endpoint, hub.cdn = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    threads = [threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        hub.ended.set()
        hub.go_on.set()
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()
