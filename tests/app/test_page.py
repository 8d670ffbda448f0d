"""The server of the page: what it serves and what it refuses, without a browser."""

import gc
import json
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

from alan.app.page import ui
from alan.app.session import MAX_UPLOAD_MB
from alan.cli.main import main


def get(url):
    """Status and body of a request; proxies are left out."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=300) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


def test_the_page_loads_no_external_resource(served):
    status, body, headers = get(served.url)
    assert status == 200
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'self'")
    assert "http" not in policy
    assert b"fonts.googleapis.com/css" not in body
    assert served.url.startswith("http://127.0.0.1:")
    config = json.loads(get(f"{served.url}config")[1])
    assert config["analytics_enabled"] is False
    assert config["max_file_size"] == MAX_UPLOAD_MB * 2**20


def test_only_uploaded_files_are_served(served, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("a hidden word")
    inside = served.root / "made" / "own.txt"
    inside.parent.mkdir(exist_ok=True)
    inside.write_text("own")
    for path in (secret, "/etc/passwd", Path(__file__).resolve(), "pyproject.toml"):
        for route in ("gradio_api/file=", "file=", "gradio_api/file/"):
            status, body, _ = get(f"{served.url}{route}{path}")
            assert status in (403, 404)
            assert b"hidden word" not in body
            assert b"root:" not in body
    climbed, body, _ = get(f"{served.url}gradio_api/file={served.root}/../{secret.parent.name}/secret.txt")
    assert climbed in (403, 404)
    assert get(f"{served.url}gradio_api/file={inside}")[:2] == (200, b"own")


def test_events_accept_uploaded_paths_only(served, tmp_path):
    """A client that sends the path of another file in place of an upload."""
    secret = tmp_path / "secret.json"
    secret.write_text('{"schema": "a hidden word"}')
    config = json.loads(get(f"{served.url}config")[1])
    loads = {
        c["id"] for c in config["components"] if c["props"].get("elem_id") in ("parcels-load", "parcels-upload")
    }
    events = [d for d in config["dependencies"] if loads & {target for target, name in d["targets"] if target}]
    assert len(events) == 2
    for event in events:
        data = [None, {"path": str(secret), "meta": {"_type": "gradio.FileData"}}]
        body = {"data": data, "fn_index": event["id"], "session_hash": "intruder", "trigger_id": None}
        request = urllib.request.Request(
            f"{served.url}gradio_api/queue/join",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        opener.open(request, timeout=300).close()
        with opener.open(f"{served.url}gradio_api/queue/data?session_hash=intruder", timeout=300) as stream:
            messages = [json.loads(line[5:]) for line in stream if line.startswith(b"data:")]
        last = next(m for m in messages if m["msg"] == "process_completed")
        assert last["success"] is False
        assert "hidden word" not in json.dumps(last)
    assert secret.exists()


def test_the_port_and_the_models_are_checked(capsys):
    assert main(["ui", "--port", "70000"]) == 2
    assert "port is 70000" in capsys.readouterr().err
    assert main(["ui", "--parcels", "alan-sim-small"]) == 2
    assert "no white box is given for the parcels alan-sim-small" in capsys.readouterr().err


def test_the_page_needs_the_extra(monkeypatch, capsys):
    import importlib

    real = importlib.import_module

    def without(name, *rest):
        if name == "gradio":
            raise ModuleNotFoundError(name)
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without)
    assert main(["ui"]) == 2
    assert "gradio is not installed: pip install 'alan-echo[ui]'" in capsys.readouterr().err


def test_the_page_listens_on_this_machine_by_default():
    import inspect

    assert inspect.signature(ui).parameters["host"].default == "127.0.0.1"


def test_ctrl_c_ends_tasks_and_then_the_server(monkeypatch, caplog):
    """Gradio's own ``block_thread`` waits for the connections of open pages instead, five seconds."""
    import logging
    import threading

    from alan.app import page
    from alan.app.session import PageClosedError

    progress, closed = [], []

    def build(uploads, **options):
        progress.append(uploads.watched("one", lambda share, text: None))
        progress[0](0.5, "decoding")
        return SimpleNamespace(close=close)

    def close(*, verbose):
        with pytest.raises(PageClosedError):
            progress[0](0.6, "decoding")
        closed.append(verbose)

    def wait(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(page, "build_page", build)
    monkeypatch.setattr(page, "serve", lambda *args, **options: "http://127.0.0.1:1/")
    monkeypatch.setattr(threading.Event, "wait", wait)
    monkeypatch.setattr("atexit.register", closed.append)
    with caplog.at_level(logging.INFO, "alan"):
        ui(browser=False)
    assert closed == [False, gc.freeze]
    assert caplog.messages[-1] == "closed"
