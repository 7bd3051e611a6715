"""The consents that a clinic system sends, as they were published for it."""

import json
import uuid
from pathlib import Path

import pytest
from tests.apps import Keys, make_app, serving

from standalone.cluster import Cluster

pytestmark = pytest.mark.data


async def test_published_consents_are_kept_as_they_were_sent(
    shared_data: Path, postgres: Cluster, tmp_path: Path
) -> None:
    body = json.loads((shared_data.parent / "examples" / "put-consents.json").read_text())
    keys = Keys.generate(tmp_path)
    headers = keys.headers(uuid.uuid4(), "clinic_system")
    path = "/v1/patients/P-1/consents"
    async with serving(make_app("engagement", postgres.create("engagement"), keys)) as client:
        answer = await client.put(path, json=body, headers=headers)
        assert answer.status_code == 200
        kept = {(one["purpose"], one["channel"], one["state"]) for one in answer.json()["consents"]}
    assert kept == {(one["purpose"], one["channel"], one["state"]) for one in body["consents"]}
