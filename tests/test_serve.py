"""`raycap serve` as clients, browsers and clusters meet it."""

import asyncio
import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from conftest import free_port
from PIL import Image
from starlette.requests import Request

from raycap import serve as module
from raycap.captioner import Captioner
from raycap.config import DecodingConfig, LimitsConfig
from raycap.errors import ConflictError, InputError
from raycap.serve import build_app, running
from raycap.tool_config import ServeConfig
from raycap.uploads import photo_in_form

CHROMIUM, CHROMEDRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
LIMITS = LimitsConfig(max_pixels=96 * 96, max_bytes=100_000)
ONGOING, QUEUED = 8, 16  # Serve queues all that come at once, before it hands them on
FILE = b'--b\r\nContent-Disposition: form-data; name="photo"; filename="x.jpg"'


def config(model: Path, port: int = 8000, **options: Any) -> ServeConfig:
    common = {"decoding": DecodingConfig(num_captions=2), "limits": LIMITS, "max_batch_size": ONGOING}
    common |= {"batch_wait_s": 0.5, "max_ongoing_requests": ONGOING, "max_queued_requests": QUEUED}
    return ServeConfig(model=str(model), port=port, **common | options)


@pytest.fixture(scope="module")
def port(ray_cluster: None, model: Path) -> Iterator[int]:
    """A server on the tests' Ray, which is as it was when the server is gone."""
    import ray

    port = free_port()
    with running(config(model, port)) as url:
        assert url == f"http://127.0.0.1:{port}/"
        yield port
    assert ray.is_initialized()
    with pytest.raises(OSError, match=r"refused|reset"):
        urllib.request.urlopen(url, timeout=10)


@pytest.fixture(scope="module")
def captioner(model: Path) -> Captioner:
    return Captioner.load(model)


def ask(
    port: int, body: Any = None, *, method: str = "POST", path: str = "/", headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], Any]:
    """Send a request; return status, headers in small letters, and body, read as JSON if it is."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    content, found = answer.read(), {name.lower(): value for name, value in answer.getheaders()}
    connection.close()
    kind = found.get("content-type", "")
    return answer.status, found, json.loads(content or b"null") if "json" in kind else content.decode()


def metric(name: str) -> float:
    import ray

    node = ray.nodes()[0]["MetricsExportPort"]
    with urllib.request.urlopen(f"http://127.0.0.1:{node}/metrics", timeout=10) as answer:
        return sum(map(float, re.findall(rf"^ray_{name} ([\d.e+]+)$", answer.read().decode(), re.M)))


# ---- over HTTP


def test_captions_are_the_captioners(port: int, captioner: Captioner, photo_folder: Path) -> None:
    photos = [path.read_bytes() for path in sorted(photo_folder.iterdir())[:4]]
    for photo, expected in zip(photos, captioner.caption(photos, num_captions=2), strict=True):
        status, headers, answer = ask(port, photo)
        assert status == 200
        assert headers["x-content-type-options"] == "nosniff"
        assert (answer["caption"], answer["num_tokens"]) == expected[:1] + expected[2:3]
        assert answer["log_prob"] == pytest.approx(expected.log_prob, abs=1e-4)
        assert [each["caption"] for each in answer["alternatives"]] == [each.caption for each in expected.alternatives]
        assert (answer["width"], answer["height"]) == (96, 96)


def test_a_form_does_as_well(port: int, captioner: Captioner, photo_folder: Path) -> None:
    photo = sorted(photo_folder.iterdir())[2]
    command = ["curl", "-s", "-F", "note=of a form", "-F", f"photo=@{photo}", f"http://127.0.0.1:{port}/"]
    answer = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert answer["caption"] == captioner.caption(photo).caption


def test_photos_that_come_together_share_model_calls_and_are_counted(port: int, photo_folder: Path) -> None:
    names = ('raycap_photos_total{.*outcome="done".*stage="serve".*}', "serve_batches_processed_total{.*_speak.*}")
    before = [metric(name) for name in names]
    photos = [path.read_bytes() for path in sorted(photo_folder.iterdir())[: 2 * ONGOING]]
    with ThreadPoolExecutor(ONGOING) as threads:  # no more than are worked on at once
        assert {status for status, *_ in threads.map(lambda photo: ask(port, photo), photos)} == {200}
    deadline = time.monotonic() + 90
    while metric(names[0]) - before[0] < len(photos):
        assert time.monotonic() < deadline
        time.sleep(1.0)
    assert 0 < metric(names[1]) - before[1] <= len(photos) / 2


@pytest.mark.parametrize(
    ("body", "headers", "status", "kind"),
    [
        (b"no photo", {}, 422, "ImageDecodeError"),
        (b"", {}, 422, "ImageEmptyError"),
        ("bomb", {}, 422, "ImageTooLargeError"),
        (b"--b\r\n\r\nno file\r\n--b--", {"Content-Type": "multipart/form-data; boundary=b"}, 422, "ImageEmptyError"),
        (b"-" * 100_001, {}, 413, "ImageTooLargeError"),
        (iter([b"-" * 60_000] * 2), {}, 413, "ImageTooLargeError"),  # in chunks, whose length is not said before
    ],
    ids=["no photo", "nothing", "bomb", "form without a file", "too large", "too large in chunks"],
)
def test_what_is_no_photo_gets_its_named_error(
    port: int, body: Any, headers: dict[str, str], status: int, kind: str
) -> None:
    if body == "bomb":
        buffer = io.BytesIO()
        Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
        body = buffer.getvalue()
        assert len(body) < LIMITS.max_bytes
    found, answered, content = ask(port, body, headers=headers)
    assert (found, content["error_type"]) == (status, kind)
    assert content["error_message"]
    assert (answered.get("connection") == "close") == (status == 413)


def test_health_and_what_is_not_there(port: int) -> None:
    assert ask(port, method="GET", path="/healthz")[::2] == (200, {"status": "ok"})
    assert ask(port, method="HEAD", path="/healthz")[0] == 200
    assert ask(port, method="GET", path="/nothing")[0] == 404
    status, headers, _ = ask(port, b"", path="/healthz")
    assert (status, headers["allow"]) == (405, "GET")


def test_it_listens_on_loopback_alone(port: int) -> None:
    import psutil

    listening = [each for each in psutil.net_connections("tcp") if each.status == "LISTEN" and each.laddr.port == port]
    assert {each.laddr.ip for each in listening} == {"127.0.0.1"}


def test_a_full_queue_says_come_again(port: int, photo_folder: Path) -> None:
    """Clients that send a photo's beginning and no more fill every place, until they go."""
    photo = sorted(photo_folder.iterdir())[0].read_bytes()
    with ExitStack() as stack:
        statuses: set[int] = set()
        for _ in range(3 * (ONGOING + QUEUED)):
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            slow.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nbeginning")
        deadline = time.monotonic() + 200
        while 503 not in statuses:
            assert time.monotonic() < deadline
            status, headers, _ = ask(port, photo)
            statuses.add(status)
        assert headers["retry-after"] == "1"
    while ask(port, photo)[0] != 200:  # they are gone, and it works again
        assert time.monotonic() < deadline + 60
        time.sleep(0.5)


# ---- in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if not (CHROMIUM.exists() and CHROMEDRIVER.exists()):
        pytest.skip("needs Debian's chromium and chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    switches = "headless=new no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
    for switch in f"{switches} disable-component-update disable-sync window-size=900,900".split():
        options.add_argument(f"--{switch}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('browser')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(CHROMEDRIVER)))
    driver.implicitly_wait(60)
    yield driver
    driver.quit()


def text_of(browser: Any, selector: str) -> str:
    return str(browser.find_element("css selector", selector).text)


def test_a_person_picks_a_photo_and_reads_its_caption(
    port: int, browser: Any, captioner: Captioner, photo_folder: Path, tmp_path: Path
) -> None:
    from selenium.webdriver.common.keys import Keys

    photo = sorted(photo_folder.iterdir())[0]
    expected = captioner.caption(photo, num_captions=2)
    browser.get(f"http://127.0.0.1:{port}/")
    browser.find_element("css selector", "body").send_keys(Keys.TAB)
    assert browser.switch_to.active_element.get_attribute("id") == "file"  # all that a keyboard needs to reach
    browser.find_element("id", "file").send_keys(str(photo))
    assert text_of(browser, ".caption") == expected.caption
    assert text_of(browser, "#result li") == expected.alternatives[0].caption
    shown = browser.find_element("id", "photo")
    assert shown.is_displayed()
    assert shown.get_attribute("alt") == expected.caption
    assert browser.execute_script("return document.getElementById('photo').naturalWidth") == 96
    assert browser.get_log("browser") == []  # nothing was refused by the policy, nothing failed

    (tmp_path / "broken.jpg").write_text("no photo")
    browser.find_element("id", "file").send_keys(str(tmp_path / "broken.jpg"))
    assert text_of(browser, ".bad").startswith("not an image")
    (tmp_path / "large.jpg").write_bytes(b"-" * (LIMITS.max_bytes + 1))
    browser.find_element("id", "file").send_keys(str(tmp_path / "large.jpg"))
    assert "more than 0.1 MB" in text_of(browser, ".bad")


def test_a_photo_can_be_dropped(port: int, browser: Any, captioner: Captioner, photo_folder: Path) -> None:
    photo = sorted(photo_folder.iterdir())[1].read_bytes()
    browser.get(f"http://127.0.0.1:{port}/")
    drop = """
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(arguments[0])], "dropped.png", {type: "image/png"}));
        document.getElementById("drop").dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true}));
    """
    browser.execute_script(drop, list(photo))
    assert text_of(browser, ".caption") == captioner.caption(photo).caption


def test_captions_are_text_and_the_page_loads_nothing_of_others(port: int, browser: Any, photo_folder: Path) -> None:
    status, headers, html = ask(port, method="GET")
    assert status == 200
    assert "default-src 'none'" in headers["content-security-policy"]
    assert re.findall(r"<[^>]*\b(?:src|href)=", html) == []
    browser.get(f"http://127.0.0.1:{port}/")
    hostile = "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script>"
    answer = {"caption": hostile, "log_prob": -1, "num_tokens": 3, "width": 1, "height": 1}
    answer["alternatives"] = [{"caption": hostile}]
    fetch = "window.fetch = async () => new Response(JSON.stringify(given))"
    browser.execute_script(f"const given = arguments[0]; {fetch}", answer)
    browser.find_element("id", "file").send_keys(str(sorted(photo_folder.iterdir())[0]))
    assert text_of(browser, ".caption") == text_of(browser, "#result li") == hostile
    assert browser.title == "raycap"
    # and a script that got in would not run
    browser.execute_script(
        "document.body.append(Object.assign(document.createElement('script'), {text: 'hacked = 1'}))"
    )
    assert browser.execute_script("return typeof hacked") == "undefined"


# ---- one process, without Ray Serve's


def request(chunks: Iterator[bytes], headers: dict[str, str] | None = None) -> Request:
    """A request whose body comes in chunks, and never ends."""

    async def receive() -> dict[str, Any]:
        for chunk in chunks:
            return {"type": "http.request", "body": chunk, "more_body": True}
        return await asyncio.Future()

    named = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": named, "query_string": b""}, receive)


def test_no_more_is_read_than_is_allowed_and_nobody_waits_for_ever(model: Path, ray_cluster: None) -> None:
    from raycap.serve_app import CaptionService

    service = CaptionService(config(model, request_timeout_s=0.2))
    taken: list[int] = []
    endless = (taken.append(1) or b"-" * 10_000 for _ in range(1_000_000))
    answer = asyncio.run(service(request(endless)))
    assert answer.status_code == 413
    assert len(taken) == LIMITS.max_bytes // 10_000 + 1
    unread = (taken.append(1) or b"" for _ in range(9))
    assert asyncio.run(service(request(unread, {"content-length": "100001"}))).status_code == 413
    assert len(taken) == LIMITS.max_bytes // 10_000 + 1  # its length was said: nothing is read
    answer = asyncio.run(service(request(iter([b"beginning"]))))
    assert answer.status_code == 504
    assert b"0.2 s" in answer.body


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (FILE + b"\r\n\r\n\x00\r\n--\xff\r\n--b--\r\n", b"\x00\r\n--\xff"),
        (b'--b\r\ncontent-disposition: form-data; filename="a\r\n\r\nx"\r\n--b--', b'x"'),
        (b"--b\r\nContent-Disposition: form-data\r\n\r\n1\r\nA: b\r\n" + FILE + b"\r\n\r\n\r\n--b--", b""),
        (FILE + b"\r\n\r\ncut short", None),
        (b"--b\r\n" * 40 + FILE + b"\r\n\r\nx\r\n--b--", None),
        (FILE + b"\r\nA: " + b"a" * 20_000 + b"\r\n\r\nx\r\n--b--", None),
        (b"--c\r\n\r\n", None),
        (b"", None),
    ],
    ids=[
        "bytes as they are",
        "odd quotes",
        "second part",
        "cut short",
        "too many parts",
        "long head",
        "another boundary",
        "empty",
    ],
)
def test_forms(content: bytes, expected: bytes | None) -> None:
    assert photo_in_form(content, "multipart/form-data; boundary=b") == expected
    assert photo_in_form(content, "multipart/form-data") is None


# ---- configuration


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "args lacks 'model'"),
        ({"model": "gone"}, "there is no model in"),
        ({"model": "m", "port": 1}, "http_options"),
        ({"model": "m", "max_batch": 1}, "max_batch"),
        ({"model": "m", "limits": {"max_pixel": 1}}, "max_pixel"),
        ({"model": "m", "max_batch_size": 64}, "give no more"),
        ({"model": "m", "decoding": {"beam_width": 0}}, "--beam-width is 0"),
    ],
)
def test_wrong_args_of_a_serve_config_are_said(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        build_app(options)


def test_args_of_a_serve_config_mean_what_they_do_on_the_command_line(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[ServeConfig] = []
    monkeypatch.setattr("raycap.serve._located", lambda config: built.append(config) or config)
    monkeypatch.setattr("raycap.serve_app.application", lambda config: config)
    build_app({"model": str(model), "limits": None, "preset": "best", "decoding": {"beam_width": 4}})
    assert built[0].limits == ServeConfig(model="m").limits
    assert (built[0].decoding.beam_width, built[0].decoding.consensus) == (4, 0.5)
    with pytest.raises(InputError, match="there is no preset 'worst'"):
        build_app({"model": str(model), "preset": "worst"})


def test_a_serve_config_builds_the_application(model: Path) -> None:
    """As docs/serving.md shows it."""
    import yaml
    from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
    from ray.serve.schema import ServeDeploySchema

    text = (Path(__file__).parents[1] / "docs/serving.md").read_text()
    [written] = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    parsed = ServeDeploySchema(**yaml.safe_load(written))
    [application] = parsed.applications
    assert application.import_path == "raycap.serve:build_app"
    args = application.args | {"model": str(model)}
    built = call_user_app_builder_with_args_if_necessary(build_app, args)  # as Serve does it
    assert built._bound_deployment.name == "captioner"
    assert built._bound_deployment.max_queued_requests == 128


def test_a_port_that_is_taken_is_said(ray_cluster: None, model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wanted = config(model, taken.getsockname()[1])
        with pytest.raises(InputError, match="give another --port"), running(wanted):
            pass
    with pytest.raises(InputError, match="have no room"), running(config(model, cpus_per_replica=1000)):
        pass
    with pytest.raises(InputError, match="1000 replicas"), running(config(model, num_replicas=1000)):
        pass


def test_without_ray_serve_there_is_a_way_out(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r'pip install "raycap\[serve\]"'):
        module.serve(config(model))


def test_a_second_one_on_a_cluster_is_refused_and_the_first_goes_on(port: int, model: Path) -> None:
    with pytest.raises(ConflictError, match="serves a model already"), running(config(model, free_port())):
        pass
    assert ask(port, method="GET", path="/healthz")[0] == 200


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_ends_with_its_own_error(model: Path, tmp_path: Path) -> None:
    gone = str(tmp_path / "gone.keras")
    command = [sys.executable, "-m", "raycap", "serve", "--model", str(model), "--encoder-file", gone]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [*command, "--port", str(free_port())],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 2
    assert f"there is no saved model at {gone}" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_the_command_serves_until_it_is_told_to_stop(model: Path, photo_folder: Path, how: signal.Signals) -> None:
    port = free_port()
    command = [sys.executable, "-m", "raycap", "serve", "--model", str(model), "--port", str(port)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    try:
        while True:
            assert time.monotonic() < deadline
            assert process.poll() is None, process.communicate()[1]
            try:
                if ask(port, method="GET", path="/healthz")[0] == 200:
                    break
            except OSError:
                time.sleep(0.2)
        # 200 means that the model is there: the first photo needs no start-up
        assert ask(port, sorted(photo_folder.iterdir())[0].read_bytes())[0] == 200
        time.sleep(3.0)  # until the driver has heard of it too
        process.send_signal(how)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0
    assert re.fullmatch(r"stopped after \d+ s\n", out)
    assert f"http://127.0.0.1:{port}/" in err
    assert "finishing what is under way" in err
    assert "Traceback" not in err
    with pytest.raises(OSError, match=r"refused|reset"):
        ask(port, method="GET")
