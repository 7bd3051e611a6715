"""Where the cluster lies, as whom it runs, and that nothing of it is left behind."""

import os
from pathlib import Path

import pytest

from standalone import placement
from standalone.folder import FolderInUse, sole_user
from standalone.placement import Misplaced, Placement, check_ours, sweep
from standalone.postgres import EmbeddedPostgres, Tuning

pytestmark = pytest.mark.process


def modes(*paths: Path) -> dict[Path, int]:
    return {folder: folder.stat().st_mode for path in paths for folder in path.parents}


def test_cluster_runs_unprivileged_changes_no_parents_mode_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    before = modes(tmp_path, placement._installed())
    server = EmbeddedPostgres(tmp_path / "postgres", Tuning(durable=False))
    server.start()
    try:
        assert Path(f"/proc/{server.pid}").stat().st_uid == (
            Path(Placement(tmp_path / "postgres").cluster_dir()).stat().st_uid
        )
        assert Path(f"/proc/{server.pid}").stat().st_uid != 0
        assert modes(tmp_path, placement._installed()) == before
        cluster = Placement(tmp_path / "postgres").cluster_dir()
        assert cluster.parent.stat().st_mode & 0o077 == 0
    finally:
        server.stop()
    server.remove()
    assert not cluster.parent.exists() or cluster.parent == tmp_path
    assert not (tmp_path / "postgres").exists()


def test_crashed_server_of_a_folder_is_ended_by_the_next_start(tmp_path: Path) -> None:
    first = EmbeddedPostgres(tmp_path / "postgres", Tuning(durable=False))
    first.start()
    second = EmbeddedPostgres(tmp_path / "postgres", Tuning(durable=False))
    second.start()
    assert first._process is not None
    assert first._process.wait(10) == 0
    second.stop()
    second.remove()


def test_port_taken_between_choice_and_use_then_another_one(tmp_path: Path) -> None:
    first = EmbeddedPostgres(tmp_path / "one", Tuning(durable=False))
    first.start()
    second = EmbeddedPostgres(tmp_path / "two", Tuning(durable=False))
    second.port = first.port
    second.start()
    assert second.port != first.port
    for server in (first, second):
        server.stop()
        server.remove()


def test_data_folder_has_one_user_at_a_time(tmp_path: Path) -> None:
    with (
        sole_user(tmp_path),
        pytest.raises(FolderInUse, match=f"process {os.getpid()}"),
        sole_user(tmp_path),
    ):
        pass
    with sole_user(tmp_path):
        pass


def test_temporary_folders_hold_scratch_and_others_what_is_to_stay(tmp_path: Path) -> None:
    assert Placement(tmp_path / "postgres").is_scratch
    assert not Placement(Path("/srv/clinic/postgres")).is_scratch


def test_sweep_removes_scratch_without_its_data_folder_and_nothing_else(tmp_path: Path) -> None:
    kept, gone, lasting = (placement.SCRATCH / f"revisit-cluster-test-{n}" for n in "abc")
    try:
        for folder, owner in (
            (kept, tmp_path),
            (gone, tmp_path / "missing"),
            (lasting, Path("/srv/missing")),
        ):
            folder.mkdir(mode=0o700)
            (folder / placement.BACK_POINTER).write_text(str(owner))
        sweep()
        assert (kept.exists(), gone.exists(), lasting.exists()) == (True, False, True)
    finally:
        for folder in (kept, lasting):
            (folder / placement.BACK_POINTER).unlink()
            folder.rmdir()


def test_copy_of_somebody_else_or_one_that_others_may_write_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    folder.chmod(0o755)
    check_ours(folder)
    folder.chmod(0o777)
    with pytest.raises(Misplaced, match="is not ours"):
        check_ours(folder)
    folder.chmod(0o755)
    link = tmp_path / "link"
    link.symlink_to(folder)
    with pytest.raises(Misplaced, match="is not ours"):
        check_ours(link)
    with pytest.raises(Misplaced, match="is not ours"):
        check_ours(folder, owner=os.geteuid() + 1)
