"""`make up`: what a person sees of a start, a stop, and the next start."""

from __future__ import annotations

import stat
from pathlib import Path

from tests.infra.up import Up, running_up


def test_a_stop_leaves_nothing_behind_and_the_next_start_finds_its_state(tmp_path: Path) -> None:
    """Ctrl-C ends instances, services and broker; project, deployment, key and bill are there again."""
    up = Up(tmp_path / "home")
    up.start()
    up.run("project", "create", "shop")
    up.run("deploy", "all-minilm-l6-v2", "-p", "shop", "--endpoint", "vectors", "--instance-type", "local-1")
    key = up.json("key", "create", "-p", "shop")["secret"]
    up.run("embed", "vectors", "one", "two", MODELYARD_KEY=key)
    assert up.stop() == 0
    assert up.processes() == []
    assert not (up.home / "addresses.json").exists()

    up.start()
    try:
        watched = up.run("deploy", "all-minilm-l6-v2", "-p", "shop", "--endpoint", "more", "--serverless")
        assert "more/all-minilm-l6-v2 is active" in watched.stdout
        up.run("embed", "more", "three", MODELYARD_KEY=key)
        bill = up.json("bill", "-p", "shop")
        core_hours = [line for line in bill["lines"] if line["rate"]["meter"] == "METER_CORE_MILLISECONDS"]
        assert len(core_hours) == 1
        assert int(core_hours[0]["quantity"]) > 0
    finally:
        assert up.stop() == 0


def test_a_second_platform_in_the_same_folder_is_refused(up: Up) -> None:
    """The refusal names the process that holds the folder and the way out."""
    refused = up.run("up", status=2)
    assert up.process is not None
    assert f"process {up.process.pid}" in refused.stderr
    assert "--data-dir" in refused.stderr


def test_addresses_are_for_their_owner_alone(up: Up) -> None:
    """addresses.json names the admin's credential file; both have mode 0600."""
    for path in (up.home / "addresses.json", Path(up.addresses["admin_credential_file"])):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_every_secret_is_for_its_owner_alone(up: Up) -> None:
    """Keys, tokens and broker credentials have mode 0600 in folders with mode 0700."""
    for path in (up.home / "secrets").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_status_finds_nothing_wrong(up: Up) -> None:
    """Every part of a healthy platform is ok, and the exit status is 0."""
    found = up.json("status")
    assert {part["name"] for part in found["parts"]} >= {
        *("supervisor", "catalog", "deploy", "billing", "inference", "nats", "usage journal")
    }
    assert all(part["ok"] for part in found["parts"])


def test_without_a_platform_status_says_the_way_out(tmp_path: Path) -> None:
    """The message names the folder and the command that starts one."""
    refused = Up(tmp_path / "nothing").run("status", status=2)
    assert "modelyard up" in refused.stderr
    assert str(tmp_path / "nothing") in refused.stderr


def test_doctor_looks_at_the_machine_without_a_platform(tmp_path: Path) -> None:
    """It finds what instances need, and that nothing runs."""
    found = Up(tmp_path / "nothing").json("doctor")
    assert {"Triton", "Python library", "nats-server", "platform"} <= {part["name"] for part in found["parts"]}


def test_a_dead_supervisor_is_said(tmp_path: Path) -> None:
    """After a crash addresses.json is still there; status says that nothing runs, and exits with 1."""
    with running_up(tmp_path / "home") as up:
        kept = (up.home / "addresses.json").read_text()
    (up.home / "addresses.json").write_text(kept)
    found = up.run("status", "--json", status=1)
    assert '"name": "supervisor"' in found.stdout
    assert "modelyard up" in found.stdout


def test_the_page_shows_models_and_prices_and_loads_nothing_from_elsewhere(up: Up) -> None:
    """GET / answers without a key; what a key may see comes with the key alone."""
    status, headers, page = up.get("/")
    assert status == 200
    for expected in (
        "smollm2-135m-instruct",
        "0.02 USD / 1M input tokens",
        "local-1",
        f"curl {up.addresses['rest']}/v1",
    ):
        assert expected in page
    assert "default-src 'none'" in headers["content-security-policy"]
    assert up.get("/page/project")[0] == 401


def test_a_models_card_is_a_page(up: Up) -> None:
    """Its facts, its price, its licence and code to copy; no script could run there, and an unknown name is a 404."""
    status, headers, page = up.get("/models/huggingfacetb/smollm2-135m-instruct")
    assert status == 200
    for expected in ("<h1>SmolLM2 135M Instruct</h1>", "0.02 USD", "Responsible use", "Apache License", "curl"):
        assert expected in page
    assert headers["content-security-policy"].startswith("default-src 'none'; style-src")
    assert up.get("/models/nobody/nothing")[0] == 404
