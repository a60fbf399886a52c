"""Runs process.py by the platform's own runner (sagemaker-shim), with inputs, outputs and model in a local S3.

The platform builds that runner into the image. It needs Python 3.12, which the image has not, so it runs process.py of
the repository here; that the image does the same, test.sh shows.
"""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest
import SimpleITK as sitk

from longilesion.shipped import SHIPPED_MODEL
from test.cases import CASES
from test.container.compare_outputs import MINIMUM_DICE, compare_layout, compare_lesions, find_maps
from test.unit.serving import free_port

REPOSITORY = Path(__file__).parents[2]
BUCKET = "case"
# Content without a type is taken for a form. The server wants a signature, whatever it is.
HEADERS = {
    "Content-Type": "application/octet-stream",
    "Authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, Signature=0",
}
# Memory of the smallest machine that the platform offers a GPU with, less what it keeps.
MEMORY_MB = 15_000

pytestmark = pytest.mark.runner


@dataclass(frozen=True)
class Outcome:
    """What the platform gets to know of a case: the result, and what was printed, by stream."""

    return_code: int
    outputs: list[str]
    stdout: list[str]
    stderr: list[str]


class Storage:
    """A bucket, by S3's HTTP interface."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._send("PUT", "")

    def put(self, key: str, content: bytes) -> None:
        self._send("PUT", f"/{key}", content)

    def get(self, key: str) -> bytes:
        return self._send("GET", f"/{key}")

    def keys(self, prefix: str) -> list[str]:
        listed = self._send("GET", f"?list-type=2&prefix={prefix}").decode()
        return sorted(key.removeprefix(prefix) for key in re.findall(r"<Key>(.*?)</Key>", listed))

    def _send(self, method: str, path: str, content: bytes | None = None) -> bytes:
        with urlopen(Request(f"{self.url}/{BUCKET}{path}", content, HEADERS, method=method), timeout=60) as answer:
            return answer.read()


def find_python() -> str | None:
    """A Python 3.12 of the path, of pyenv or of uv; pyenv's entries on the path may lead nowhere."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [shutil.which("python3.12"), *root.glob("versions/3.12.*/bin/python3.12")]
    if shutil.which("uv"):
        found = subprocess.run(["uv", "python", "find", "3.12"], capture_output=True, text=True, check=False)
        candidates.append(found.stdout.strip() or None)
    for candidate in filter(None, candidates):
        if subprocess.run([candidate, "-c", "import ensurepip"], capture_output=True, check=False).returncode == 0:
            return str(candidate)
    return None


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of an environment with the runner and a server of S3."""
    python = find_python()
    if python is None:
        pytest.skip("no Python 3.12 with venv, which sagemaker-shim 0.7 needs: not on the path, nor by pyenv or uv")
    environment = tmp_path_factory.mktemp("runner")
    subprocess.run([python, "-m", "venv", environment], check=True)
    install = ("install", "--quiet", "--no-deps", "--requirement", REPOSITORY / "requirements-runner.txt")
    subprocess.run([environment / "bin" / "pip", *install], check=True)
    return environment / "bin"


@pytest.fixture(scope="module")
def storage(commands: Path) -> Iterator[Storage]:
    port = free_port()
    server = subprocess.Popen(
        [commands / "moto_server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield wait_for_storage(f"http://127.0.0.1:{port}", server)
    finally:
        server.terminate()
        server.wait()


def wait_for_storage(url: str, server: subprocess.Popen[bytes]) -> Storage:
    until = time.monotonic() + 60
    while True:
        try:
            return Storage(url)
        except URLError:
            if server.poll() is not None or time.monotonic() > until:
                raise
            time.sleep(0.2)


def put_model(storage: Storage, folder: Path) -> None:
    with tarfile.open(folder / "model.tar.gz", "w:gz") as archive:
        for path in sorted(SHIPPED_MODEL.iterdir()):
            archive.add(path, path.name)
    storage.put("model.tar.gz", (folder / "model.tar.gz").read_bytes())


def put_task(storage: Storage, case: Path, name: str, *, limit_s: int = 600) -> dict[str, object]:
    """Uploads a case, and returns what the runner is told of it."""
    files = sorted(path.relative_to(case) for path in case.rglob("*") if path.is_file())
    for file in files:
        storage.put(f"{name}/in/{file}", (case / file).read_bytes())
    return {
        "pk": name,
        "inputs": [
            {"relative_path": str(file), "bucket_name": BUCKET, "bucket_key": f"{name}/in/{file}"} for file in files
        ],
        "output_bucket_name": BUCKET,
        "output_prefix": f"{name}/out/",
        "timeout": f"PT{limit_s}S",
    }


def run_case(commands: Path, storage: Storage, case: Path, folder: Path, *, limit_s: int = 600) -> Outcome:
    """Uploads a case and the shipped model, and has the runner process it in a folder, as it does on the platform."""
    put_model(storage, folder)
    task = put_task(storage, case, folder.name, limit_s=limit_s)
    (folder / "output").mkdir()
    finished = subprocess.run(
        [commands / "sagemaker-shim", "invoke", "--tasks", json.dumps([task])],
        env=environment(storage, folder),
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return outcome(storage, folder, folder.name, (finished.stdout + finished.stderr).splitlines())


def outcome(storage: Storage, folder: Path, name: str, log: Sequence[str]) -> Outcome:
    lines = [line for line in map(json.loads, log) if not line["internal"] and line["task"] == name]
    said = {source: [line["log"] for line in lines if line["source"] == source] for source in ("stdout", "stderr")}
    result = json.loads(storage.get(f"{name}/out/.sagemaker_shim/inference_result.json"))
    outputs = [key for key in storage.keys(f"{name}/out/") if not key.startswith(".sagemaker_shim/")]
    assert sorted(output["relative_path"] for output in result["outputs"]) == outputs
    assert not any(path.is_file() for path in (folder / "output").rglob("*"))
    return Outcome(result["return_code"], outputs, said["stdout"], said["stderr"])


def environment(storage: Storage, folder: Path, *options: object, **more: object) -> dict[str, str]:
    """The platform's settings, with folders of this test in place of those at the root."""
    places = {"--input": folder / "input", "--output": folder / "output", "--model": folder / "model"}
    command = [sys.executable, REPOSITORY / "process.py", *(word for pair in places.items() for word in pair), *options]
    settings = {
        "ENTRYPOINT_B64J": base64.b64encode(json.dumps([str(word) for word in command]).encode()).decode(),
        "INPUT_PATH": folder / "input",
        "LINKED_INPUT_PARENT": folder / "data",
        "OUTPUT_PATH": folder / "output",
        "MODEL": f"s3://{BUCKET}/model.tar.gz",
        "MODEL_DEST": folder / "model",
        "WRITABLE_DIRECTORIES": "",
        "POST_CLEAN_DIRECTORIES": folder / "model",
        "SIGNING_KEY_HEX": "00" * 32,
        "SET_EXTRA_GROUPS": False,
        "MAX_MEMORY_MB": MEMORY_MB,
        **more,
    }
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder),
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_S3_ENDPOINT_URL": storage.url,
        **{f"GRAND_CHALLENGE_COMPONENT_{name}": str(value) for name, value in settings.items()},
    }


def assert_as_expected(storage: Storage, name: str, outcome: Outcome, case: Path, folder: Path) -> None:
    assert outcome.return_code == 0
    assert outcome.stderr == []
    assert any("outlined" in line for line in outcome.stdout)
    expected = find_maps(case / "expected")
    assert outcome.outputs == sorted(f"images/{slug}/output.mha" for slug in expected)
    for slug, path in expected.items():
        (folder / "found.mha").write_bytes(storage.get(f"{name}/out/images/{slug}/output.mha"))
        found, wanted = sitk.ReadImage(folder / "found.mha"), sitk.ReadImage(path)
        assert list(compare_layout(found, wanted)) == []
        rows = compare_lesions(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(wanted))
        assert [row for row in rows if row[3] < MINIMUM_DICE] == []


def test_case_gives_its_maps_and_no_line_on_stderr(commands: Path, storage: Storage, tmp_path: Path) -> None:
    case = CASES / "interface_2"
    outcome = run_case(commands, storage, case / "input", tmp_path)
    assert_as_expected(storage, tmp_path.name, outcome, case, tmp_path)


def test_damaged_scan_fails_the_case_with_one_line(commands: Path, storage: Storage, tmp_path: Path) -> None:
    case = shutil.copytree(CASES / "interface_1" / "input", tmp_path / "case")
    (scan,) = (case / "images" / "primary-followup-ct").iterdir()
    os.truncate(scan, 2048)
    outcome = run_case(commands, storage, case, tmp_path)
    assert outcome.return_code == 1
    assert outcome.outputs == []
    (line,) = outcome.stderr
    assert scan.name in line


def endless(folder: Path) -> Path:
    """A case with so many new lesions that no machine is done in time."""
    case = shutil.copytree(CASES / "interface_1" / "input", folder)
    clicks = case / "primary-followup-lesion-clicks.json"
    content = json.loads(clicks.read_text())
    place = content["points"][0]["point"]
    content["points"] += [{"name": str(lesion_id), "point": place} for lesion_id in range(1000, 3000)]
    clicks.write_text(json.dumps(content))
    return case


def test_time_limit_stops_the_case_and_leaves_nothing(commands: Path, storage: Storage, tmp_path: Path) -> None:
    outcome = run_case(commands, storage, endless(tmp_path / "case"), tmp_path, limit_s=20)
    assert outcome.return_code == 1
    assert outcome.outputs == []
    assert "Time limit exceeded" in outcome.stderr
    assert any(line.startswith("stopped by ") for line in outcome.stderr)


# ------------------------------------------------------------------------------------------------------------ invoke

# The runner's own server, as its command `serve` runs it, at another port.
SERVE = """
import logging.config, sys, uvicorn
from sagemaker_shim.app import app
from sagemaker_shim.cli import LOGGING_CONFIG, set_memory_limits
logging.config.dictConfig(LOGGING_CONFIG)
set_memory_limits()
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_config=None, workers=1, loop="asyncio")
"""


class Invoking:
    """The runner's server over one process.py --serve; `log` is what both have said."""

    def __init__(self, commands: Path, storage: Storage, folder: Path) -> None:
        put_model(storage, folder)
        (folder / "output").mkdir()
        port, own_port = free_port(), free_port()
        settings = environment(
            storage, folder, "--serve", "--port", own_port, API_METHOD="invoke", USER_WEBSERVER_PORT=own_port
        )
        self.storage, self.folder, self.url = storage, folder, f"http://127.0.0.1:{port}"
        self.stream = open(folder / "log", "w")  # noqa: SIM115 - closed below
        command = [commands / "python", "-c", SERVE, str(port)]
        self.process = subprocess.Popen(command, env=settings, stdout=self.stream, stderr=self.stream)
        until = time.monotonic() + 300
        while True:
            try:
                urlopen(f"{self.url}/ping", timeout=10).close()
                return
            except URLError:
                assert self.process.poll() is None, self.log()
                assert time.monotonic() < until, self.log()
                time.sleep(0.2)

    def log(self) -> list[str]:
        return (self.folder / "log").read_text().splitlines()

    def run(self, case: Path, name: str, *, limit_s: int = 600) -> Outcome:
        task = put_task(self.storage, case, name, limit_s=limit_s)
        content = {"Content-Type": "application/json"}
        request = Request(f"{self.url}/invocations", json.dumps(task).encode(), content, method="POST")
        urlopen(request, timeout=900).close()
        return outcome(self.storage, self.folder, name, self.log())

    def end(self) -> list[str]:
        """Ends both; returns what process.py has said on stderr outside of cases, and since its last one."""
        before = len(self.log())
        self.process.terminate()
        self.process.wait(timeout=60)
        self.stream.close()
        lines = [json.loads(line) for line in self.log()]
        return [
            line["log"]
            for number, line in enumerate(lines)
            if not line["internal"] and line["source"] == "stderr" and (number >= before or line["task"] is None)
        ]


@pytest.fixture(scope="module")
def invoking(commands: Path, storage: Storage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Invoking]:
    running = Invoking(commands, storage, tmp_path_factory.mktemp("invoking"))
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()
        running.stream.close()


def test_invoked_cases_follow_each_other_past_a_damaged_one_and_one_that_takes_too_long(
    invoking: Invoking, storage: Storage, tmp_path: Path
) -> None:
    sample = CASES / "interface_1"
    assert_as_expected(storage, "first", invoking.run(sample / "input", "first"), sample, tmp_path)
    case = shutil.copytree(sample / "input", tmp_path / "damaged")
    (scan,) = (case / "images" / "primary-followup-ct").iterdir()
    os.truncate(scan, 2048)
    damaged = invoking.run(case, "damaged")
    assert (damaged.return_code, damaged.outputs) == (1, [])
    # The runner's own line comes last.
    line, status = damaged.stderr
    assert scan.name in line
    assert "500" in status
    late = invoking.run(endless(tmp_path / "endless"), "late", limit_s=5)
    assert (late.return_code, late.outputs) == (1, [])
    last = invoking.run(sample / "input", "last")
    # The one that took too long may have been stopped when the next one had come.
    said = [line for line in last.stderr if line != "stopped, as its client has left"]
    assert_as_expected(storage, "last", replace(last, stderr=said), sample, tmp_path)
    assert sum("loaded" in line for line in invoking.log()) == 1
    assert invoking.end() == []
    assert any("User process teardown complete" in line for line in invoking.log())
