"""Where the public data sets are: `../shared/data` beside the project, or REVISIT_SHARED_DATA."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    given = os.environ.get("REVISIT_SHARED_DATA")
    folder = Path(given) if given else Path(__file__).parents[3] / "shared" / "data"
    assert folder.is_dir(), f"the data sets are not at {folder}"
    return folder
