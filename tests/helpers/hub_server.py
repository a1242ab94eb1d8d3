"""A Hugging Face Hub on this machine: the requests of a download and of an upload, as the client sends them."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest

Files = dict[str, bytes]
TOKEN = "hf_of_a_test"


@dataclass
class Repository:
    private: bool = False
    gated: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Files] = field(default_factory=dict)

    def commit(self, branch: str, files: Files) -> str:
        sha = hashlib.sha1(json.dumps([len(self.commits), sorted(files)]).encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.branches[branch] = sha
        return sha

    def at(self, revision: str) -> str | None:
        return self.branches.get(revision, revision if revision in self.commits else None)


@dataclass
class Hub:
    """Repositories by their names, and the requests so far."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    uploaded: Files = field(default_factory=dict)
    url: str = ""

    def add(self, name: str, folder: Path, **about: bool) -> str:
        """A repository with the files of a folder; returns the commit."""
        self.repositories[name] = Repository(**about)
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        return self.repositories[name].commit("main", files)


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def handle_any(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        for pattern, answer in ROUTES.items():
            if found := re.fullmatch(pattern, f"{self.command} {path}"):
                return answer(self, **found.groupdict())
        self.send(404)

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def send(self, status: int, content: Any = None, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content or {}).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    @property
    def may_write(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def repository(self, name: str) -> Repository | None:
        """The repository, or None after an answer that refuses it."""
        found = self.hub.repositories.get(name)
        if found is None or (found.private and not self.may_write):
            self.send(404, X_Error_Code="RepoNotFound")
        elif found.gated:
            self.send(403, X_Error_Code="GatedRepo")
        else:
            return found
        return None

    def files(self, name: str, revision: str) -> tuple[str, Files] | None:
        if (found := self.repository(name)) is None:
            return None
        if (sha := found.at(revision)) is None:
            self.send(404, X_Error_Code="RevisionNotFound")
            return None
        return sha, found.commits[sha]

    def info(self, name: str, revision: str | None = None) -> None:
        if (found := self.files(name, revision or "main")) is not None:
            siblings = [{"rfilename": path, "size": len(content)} for path, content in found[1].items()]
            private = self.hub.repositories[name].private
            self.send(200, {"id": name, "sha": found[0], "siblings": siblings, "private": private})

    def tree(self, name: str, revision: str) -> None:
        if (found := self.files(name, revision)) is not None:
            self.send(200, [{"type": "file", "path": path, "size": len(content), "oid": oid(content)}
                            for path, content in found[1].items()])  # fmt: skip

    def resolve(self, name: str, revision: str, file: str) -> None:
        if (found := self.files(name, revision)) is None:
            return
        if file not in found[1]:
            return self.send(404, X_Error_Code="EntryNotFound", X_Repo_Commit=found[0])
        self.send(200, found[1][file], X_Repo_Commit=found[0], ETag=f'"{oid(found[1][file])}"')

    def create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        if not self.may_write:
            return self.send(401, {"error": "Invalid user token"})
        if name in self.hub.repositories:
            return self.send(409, {"error": "exists", "url": f"{self.hub.url}/{name}"})
        self.hub.repositories[name] = Repository(asked.get("visibility") == "private" or asked.get("private", False))
        self.hub.repositories[name].commit("main", {".gitattributes": b""})
        self.send(200, {"url": f"{self.hub.url}/{name}"})

    def branch(self, name: str, branch: str) -> None:
        if (found := self.repository(name)) is None:
            return
        if branch in found.branches:
            return self.send(409, {"error": "exists"})
        found.branches[branch] = found.branches["main"]
        self.send(200)

    def validate(self) -> None:
        """As the Hub does: front matter that the client's own class for model cards does not read is refused."""
        try:
            about = huggingface_hub.ModelCard(json.loads(self.body)["content"]).data
            errors = [] if about.pipeline_tag and about.library_name else ["no metadata"]
        except ValueError as error:
            errors = [str(error)]
        self.send(400 if errors else 200, {"errors": [{"message": error} for error in errors], "warnings": []})

    def preupload(self, name: str, revision: str) -> None:
        asked = json.loads(self.body)["files"]
        self.send(200, {"files": [
            {"path": file["path"], "shouldIgnore": False,
             "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular"} for file in asked
        ]})  # fmt: skip

    def batch(self, name: str) -> None:
        objects = json.loads(self.body)["objects"]
        self.send(200, {"transfer": "basic", "objects": [
            {**one, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}"}}} for one in objects
        ]})  # fmt: skip

    def large(self, oid: str) -> None:
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.hub.uploaded[oid] = self.body
        self.send(200)

    def commit(self, name: str, revision: str) -> None:
        if not self.may_write or (found := self.files(name, revision)) is None:
            return
        files = dict(found[1])
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.uploaded[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        sha = self.hub.repositories[name].commit(revision, files)
        self.send(200, {"commitUrl": f"{self.hub.url}/{name}/commit/{sha}", "commitOid": sha})


NAME, REVISION = r"(?P<name>[\w.-]+/[\w.-]+)", "(?P<revision>[^/]+)"
ROUTES: dict[str, Any] = {
    rf"GET /api/models/{NAME}(/revision/{REVISION})?": Handler.info,
    rf"GET /api/models/{NAME}/tree/{REVISION}": Handler.tree,
    rf"(GET|HEAD) /{NAME}/resolve/{REVISION}/(?P<file>.+)": Handler.resolve,
    "POST /api/repos/create": Handler.create,
    "POST /api/validate-yaml": Handler.validate,
    rf"POST /api/models/{NAME}/branch/(?P<branch>.+)": Handler.branch,
    rf"POST /api/models/{NAME}/preupload/{REVISION}": Handler.preupload,
    rf"POST /{NAME}\.git/info/lfs/objects/batch": Handler.batch,
    r"PUT /lfs/(?P<oid>\w+)": Handler.large,
    rf"POST /api/models/{NAME}/commit/{REVISION}": Handler.commit,
}


def oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@contextmanager
def local_hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Serve an empty Hub, which huggingface_hub uses within the block, without a token and with an empty cache."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + template[template.index("/{repo_id}") :])
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # Its server is another one.
    monkeypatch.delenv("HF_TOKEN", raising=False)
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
