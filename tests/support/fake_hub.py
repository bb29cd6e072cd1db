"""A Hub on localhost that takes commits and serves files: just the routes that push_to_hub and from_pretrained use."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


REVISION = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """`files` maps repository → path → bytes; `url` is the value for HF_ENDPOINT. Use as a context manager."""

    def __init__(self):
        self.files: dict[str, dict[str, bytes]] = {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments):
                pass

            def answer(self, status=200, body=b"", **headers):
                if not isinstance(body, bytes):
                    body, headers = json.dumps(body).encode(), {"Content-Type": "application/json", **headers}
                self.send_response(status)
                for name, value in {"Content-Length": len(body), **headers}.items():
                    self.send_header(name.replace("_", "-"), str(value))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.path == "/api/repos/create":
                    wanted = json.loads(body)
                    repository = f"{wanted.get('organization') or 'tester'}/{wanted['name']}"
                    hub.files.setdefault(repository, {})
                    return self.answer(body={"url": f"{hub.url}/{repository}", "id": repository})
                if self.path == "/api/validate-yaml":
                    return self.answer(body={"errors": [], "warnings": []})
                if re.fullmatch(r"/api/models/.+/preupload/.+", self.path):
                    modes = [
                        {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                        for file in json.loads(body)["files"]
                    ]
                    return self.answer(body={"files": modes})
                if match := re.fullmatch(r"/api/models/(.+)/commit/.+", self.path):
                    for entry in map(json.loads, body.decode().splitlines()):
                        if entry["key"] == "file":
                            content = base64.b64decode(entry["value"]["content"])
                            hub.files[match[1]][entry["value"]["path"]] = content
                    url = f"{hub.url}/{match[1]}/commit/{REVISION}"
                    return self.answer(body={"commitUrl": url, "commitOid": REVISION, "success": True})
                return self.answer(404, {"error": self.path})

            def do_GET(self):
                path = self.path.partition("?")[0]
                if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/.+)?", path):
                    if match[1] not in hub.files:
                        return self.answer(404, {"error": "no such repository"}, X_Error_Code="RepoNotFound")
                    siblings = [{"rfilename": name} for name in hub.files[match[1]]]
                    return self.answer(body={"id": match[1], "sha": REVISION, "siblings": siblings})
                if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/[^/]+", path):
                    files = hub.files.get(match[1], {}).items()
                    listed = [
                        {"type": "file", "path": name, "size": len(file), "oid": "0" * 40} for name, file in files
                    ]
                    return self.answer(body=listed)
                if re.fullmatch(r"/api/models/[^/]+/[^/]+/tree/.+", path):
                    return self.answer(body=[])
                if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
                    content = hub.files.get(match[1], {}).get(match[2])
                    if content is None:
                        return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=REVISION)
                    etag = f'"{hashlib.sha256(content).hexdigest()}"'
                    return self.answer(body=content, ETag=etag, X_Repo_Commit=REVISION)
                return self.answer(404, {"error": self.path})

            do_HEAD = do_GET

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> "FakeHub":
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.server.shutdown()
        self.server.server_close()
