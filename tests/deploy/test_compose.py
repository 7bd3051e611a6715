"""docker-compose.yml, read as Compose reads it: what it promises to an ops team."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from deploy.make_env import environment_names, write_environment

ROOT = Path(__file__).parents[2]
SERVICES = ("booking", "engagement", "feedback", "scoring")
PROCESSES = [f"{service}-{kind}" for service in SERVICES for kind in ("api", "worker")]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return parsed


def test_compose_has_the_eight_processes_and_their_one_shot_jobs(compose: dict[str, Any]) -> None:
    names = set(compose["services"])
    assert set(PROCESSES) <= names
    assert {f"{service}-migrate" for service in SERVICES} <= names
    assert {"topics", "postgres", "kafka", "catcher"} <= names


@pytest.mark.parametrize("name", PROCESSES)
def test_process_runs_read_only_without_capabilities_and_with_a_health_check(
    compose: dict[str, Any], name: str
) -> None:
    process = compose["services"][name]
    assert process["image"] == "revisit:local"
    assert process["read_only"] is True
    assert process["cap_drop"] == ["ALL"]
    assert process["healthcheck"]["test"][0] == "CMD"
    service, kind = name.split("-")
    assert process["command"] == [service, kind]


@pytest.mark.parametrize("name", PROCESSES)
def test_process_waits_for_its_migration(compose: dict[str, Any], name: str) -> None:
    waits = compose["services"][name]["depends_on"]
    migration = f"{name.split('-', maxsplit=1)[0]}-migrate"
    assert waits[migration] == {"condition": "service_completed_successfully"}


@pytest.mark.parametrize("service", SERVICES)
def test_only_the_migration_knows_the_owner(compose: dict[str, Any], service: str) -> None:
    owner = f"{service.upper()}_OWNER_DATABASE_URL"
    holders = [
        name
        for name, process in compose["services"].items()
        if owner in process.get("environment", {})
    ]
    assert holders == [f"{service}-migrate"]


def test_no_service_holds_the_address_of_another_ones_database(compose: dict[str, Any]) -> None:
    for name in PROCESSES:
        own = name.split("-")[0].upper()
        addresses = [
            key for key in compose["services"][name]["environment"] if key.endswith("DATABASE_URL")
        ]
        assert addresses
        assert all(key.startswith(f"{own}_") for key in addresses)


def test_every_secret_of_the_file_comes_from_the_generated_environment() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    required = set(re.findall(r"\$\{([A-Z_]+):\?", text))
    assert required == set(environment_names())


def test_no_password_stands_in_the_file(compose: dict[str, Any]) -> None:
    for name, process in compose["services"].items():
        for key, value in process.get("environment", {}).items():
            if "PASSWORD" in key:
                assert value.startswith("${"), f"{name}.{key}"
            if key.endswith("DATABASE_URL"):
                assert re.search(r"://\w+:\$\{\w+:\?[^}]*\}@", value), f"{name}.{key}"


def test_generated_environment_is_random_private_and_kept(tmp_path: Path) -> None:
    (tmp_path / "deploy").mkdir()
    write_environment(tmp_path)
    first = (tmp_path / ".env").read_text()
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0
    values = dict(line.split("=", 1) for line in first.splitlines())
    assert set(values) == set(environment_names())
    assert len(set(values.values())) == len(values)
    assert write_environment(tmp_path) == []
    assert (tmp_path / ".env").read_text() == first


def test_images_users_and_stages_of_the_dockerfile() -> None:
    lines = (ROOT / "deploy" / "Dockerfile").read_text().splitlines()
    assert sum(line.startswith("FROM ") for line in lines) == 2
    assert "USER 10001:10001" in lines
    assert any("--require-hashes" in line for line in lines)
