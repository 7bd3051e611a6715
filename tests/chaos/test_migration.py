"""F1: a migration that dies half-way is run again, and the database is as if it never had."""

import os
import subprocess
import sys

import pytest

from revisit_chassis.failpoint import KILLED
from revisit_chassis.migrate import current_revision, head_revision
from standalone.cluster import Cluster

SERVICES = ("booking", "engagement", "feedback", "scoring")
LIMIT_SECONDS = 60


@pytest.mark.parametrize("service", SERVICES)
def test_migration_that_was_killed_is_run_again(postgres: Cluster, service: str) -> None:
    database = postgres.prepare(f"{service}_half_way")
    prefix = service.upper()
    environment = os.environ | {
        f"{prefix}_DATABASE_URL": database.database_url,
        f"{prefix}_WORKER_DATABASE_URL": database.worker_database_url,
        f"{prefix}_OWNER_DATABASE_URL": database.owner_database_url,
    }

    def migrate(failpoint: str) -> int:
        return subprocess.run(
            [sys.executable, "-m", service, "migrate"],
            env=environment | {"FAILPOINT": failpoint},
            check=False,
            timeout=LIMIT_SECONDS,
        ).returncode

    assert migrate("migrate.before_commit:1") == KILLED
    assert current_revision(service, database.owner_database_url) is None
    assert migrate("") == 0
    assert current_revision(service, database.owner_database_url) == head_revision(service)
    assert migrate("") == 0
