"""A local W&B server that records what `wandb sync` uploads, so that tests can check it."""

from __future__ import annotations

import gzip
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

OPTIONAL = {"ServerFeaturesQuery", "ArtifactType"}  # Queries that W&B can do without.
ENTITY = {"id": "entity", "name": "someone"}


@dataclass
class Artifact:
    """A version of an artifact: the content of its files by name, and the runs that logged and used it."""

    type: str
    name: str
    digest: str
    metadata: dict[str, Any]
    aliases: set[str] = field(default_factory=set)
    made_by: str | None = None
    used_by: set[str] = field(default_factory=set)
    files: dict[str, bytes] = field(default_factory=dict)
    is_committed: bool = False


@dataclass
class FakeServer:
    """The upload part of W&B's protocol. Artifacts with the same name and digest are the same version."""

    address: str = ""
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    history: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)
    summaries: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    artifacts: list[Artifact] = field(default_factory=list)
    received: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    sweep: str = ""
    to_train: list[dict[str, Any]] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)

    def versions(self, name: str) -> list[Artifact]:
        return [artifact for artifact in self.artifacts if artifact.name == name]

    def answer(self, method: str, path: str, body: bytes) -> Any:
        with self.lock:
            if path.startswith("/sdk/otel"):
                return {}
            self.received.append(f"{method} {path} {body.decode(errors='replace')}")
            if path == "/graphql":
                asked = json.loads(body)
                found = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
                operation = found[1] if found else ""
                handler = getattr(self, f"on_{operation}", None)
                if handler is None:
                    self.unknown.append(operation)
                    return {"data": None, "errors": [{"message": "not known here"}]}
                return {"data": handler(asked.get("variables") or {})}
            if path.endswith("/file_stream"):
                self.stream(path.split("/")[-2], json.loads(body).get("files") or {})
                return {"exitcode": None, "limits": {}}
            if path.startswith("/store/artifact/"):
                _, number, name = path.removeprefix("/store/").split("/", 2)
                self.artifacts[int(number)].files[name] = body
            elif path.startswith("/store/run/"):
                self.files[path.removeprefix("/store/run/")] = body
            return {}

    def stream(self, run: str, files: dict[str, Any]) -> None:
        for name, chunk in files.items():
            lines = [json.loads(line) for line in chunk["content"]]
            if name == "wandb-history.jsonl":
                numbered = enumerate(lines, start=chunk["offset"])
                self.history.setdefault(run, {}).update(numbered)
            elif name == "wandb-summary.json":
                self.summaries[run] = lines[-1]

    def on_Viewer(self, variables: dict[str, Any]) -> dict[str, Any]:
        user = {"id": "user", "entity": "someone", "username": "someone", "email": "", "flags": "{}"}
        return {"viewer": {**user, "teams": {"edges": []}}}

    def on_UpsertSweep(self, variables: dict[str, Any]) -> dict[str, Any]:
        self.sweep = variables["config"]
        project = {"id": "project", "name": variables["projectName"], "entity": ENTITY}
        return {"upsertSweep": {"sweep": {"name": "sweep1", "project": project}, "configValidationWarnings": []}}

    def on_SweepWithRuns(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"sweep": {"id": "sweep", "name": "sweep1", "config": self.sweep, "runs": {"edges": []}}}}

    def on_CreateAgent(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"createAgent": {"agent": {"id": "agent"}}}

    def on_Heartbeat(self, variables: dict[str, Any]) -> dict[str, Any]:
        """Send the commands of a sweep, one training at a time."""
        commands: list[dict[str, Any]] = []
        if not any(json.loads(variables["runState"]).values()):
            number = len(self.to_train)
            commands = [{"type": "exit"}]
            if self.to_train:
                given = {name: {"value": value} for name, value in self.to_train.pop(0).items()}
                commands = [{"type": "run", "run_id": f"swept{number}", "args": given, "program": ""}]
        return {"agentHeartbeat": {"agent": {"id": "agent"}, "commands": json.dumps(commands)}}

    def on_UpsertBucket(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables["name"]
        is_new = name not in self.runs
        run = self.runs.setdefault(name, {"id": f"bucket-{name}"})
        run |= {key: value for key, value in variables.items() if value is not None and key != "id"}
        project = {"id": "project", "name": run["project"], "entity": ENTITY}
        bucket = {"id": run["id"], "name": name, "displayName": run.get("displayName"), "description": None,
                  "config": run.get("config"), "sweepName": None, "project": project,
                  "historyLineCount": len(self.history.get(name, {}))}  # fmt: skip
        return {"upsertBucket": {"bucket": bucket, "inserted": is_new}}

    def on_RunResumeStatus(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables["name"]
        model = {"id": "project", "name": variables["project"], "entity": ENTITY, "bucket": None}
        if name in self.runs:
            lines = self.history.get(name, {})
            tail = [json.dumps(lines[max(lines)])] if lines else []
            model["bucket"] = {
                "id": self.runs[name]["id"], "name": name, "displayName": self.runs[name].get("displayName"),
                "summaryMetrics": json.dumps(self.summaries.get(name, {})), "historyLineCount": len(lines),
                "historyTail": json.dumps(tail), "logLineCount": 0, "eventsLineCount": 0, "eventsTail": "[]",
                "config": self.runs[name]["config"], "tags": [], "notes": None, "wandbConfig": '{"t": 1}',
            }  # fmt: skip
        return {"model": model}

    def on_CreateArtifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        given = variables["input"]
        name, digest = given["artifactCollectionName"], given["digest"]
        known = [artifact for artifact in self.versions(name) if artifact.digest == digest]
        if not known:
            metadata = json.loads(given["metadata"] or "{}")
            self.artifacts.append(Artifact(given["artifactTypeName"], name, digest, metadata))
        artifact = known[0] if known else self.artifacts[-1]
        artifact.made_by = artifact.made_by or given["runName"]
        for alias in (item["alias"] for item in given["aliases"] or []):
            for version in self.versions(name):
                version.aliases.discard(alias)
            artifact.aliases.add(alias)
        state = "COMMITTED" if artifact.is_committed else "PENDING"
        number = str(self.artifacts.index(artifact))
        latest = {"id": str(self.artifacts.index(self.versions(name)[-1]))}
        sequence = {"latestArtifact": latest if known else None}
        return {"createArtifact": {"artifact": {"id": number, "state": state, "artifactSequence": sequence}}}

    def upload(self, number: str, name: str) -> dict[str, Any]:
        """Where to upload a file of an artifact."""
        return {"id": "file", "uploadHeaders": [], "uploadUrl": f"{self.address}/store/artifact/{number}/{name}"}

    def on_CreateArtifactManifest(self, variables: dict[str, Any]) -> dict[str, Any]:
        number = variables["artifactID"]
        file = self.upload(number, variables["name"])
        return {"createArtifactManifest": {"artifactManifest": {"id": f"manifest-{number}", "file": file}}}

    def on_UpdateArtifactManifest(self, variables: dict[str, Any]) -> dict[str, Any]:
        number = variables["artifactManifestID"].removeprefix("manifest-")
        file = self.upload(number, "wandb_manifest.json")
        return {"updateArtifactManifest": {"artifactManifest": {"id": variables["artifactManifestID"], "file": file}}}

    def on_CreateArtifactFiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        nodes = []
        for spec in variables["input"]["artifactFiles"]:
            number, name = spec["artifactID"], spec["name"]
            known = {"name": name, "displayName": name, "artifact": {"id": number}}
            nodes.append(self.upload(number, name) | known | {"storagePath": None, "uploadMultipartUrls": None})
        return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}

    def on_CommitArtifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        self.artifacts[int(variables["artifactID"])].is_committed = True
        return {"commitArtifact": {"artifact": {"id": variables["artifactID"], "digest": ""}}}

    def on_UseArtifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        given = variables["input"]
        self.artifacts[int(given["artifactID"])].used_by.add(given["runName"])
        return {"useArtifact": {"artifact": {"id": given["artifactID"]}}}

    def on_CreateRunFiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = variables["run"]
        files = [{"name": name, "uploadUrl": f"{self.address}/store/run/{run}/{name}"} for name in variables["files"]]
        return {"createRunFiles": {"runID": f"bucket-{run}", "uploadHeaders": [], "files": files}}


@contextmanager
def serving() -> Iterator[FakeServer]:
    """A server on a free port."""
    fake = FakeServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            answer = json.dumps(fake.answer(self.command, self.path, self.body())).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_PUT = do_GET = do_POST

        def body(self) -> bytes:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            return gzip.decompress(content) if self.headers.get("Content-Encoding") == "gzip" else content

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            error = sys.exception()
            if not isinstance(error, ConnectionError):  # A client that ends resets what it left open.
                fake.unknown.append(repr(error))

    server = Server(("127.0.0.1", 0), Handler)
    fake.address = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
