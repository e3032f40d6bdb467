"""What the system says of memory, from planted answers; and how many workers that makes."""

import pytest

from separator import memory
from separator.batch import pool

MEMINFO = "MemTotal:  8000000 kB\nMemAvailable:    5000000 kB\nHugePages_Total:  0\n"


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A system of 5.12 GB free; files written beside become its control group."""
    (tmp_path / "meminfo").write_text(MEMINFO)
    monkeypatch.setattr(memory, "_SYSTEM", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    return tmp_path


def group(folder, limit, current=3_000_000_000, inactive=500_000_000):
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{current}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {inactive}\n")


def test_available_memory_is_the_least_of_what_system_and_container_leave(system):
    assert memory.available_bytes() == 5_120_000_000
    group(system, "max")
    assert memory.available_bytes() == 5_120_000_000
    group(system, 4_000_000_000)
    assert memory.available_bytes() == 1_500_000_000
    group(system, 1_000_000_000)
    assert memory.available_bytes() == 0
    group(system, 9_000_000_000)
    assert memory.available_bytes() == 5_120_000_000
    (system / "meminfo").unlink()
    assert memory.available_bytes() is None


@pytest.mark.parametrize(("cores", "songs", "free", "expected"), [
    (2, 9, 64e9, (2, 1)), (2, 1, 64e9, (1, 1)), (2, 9, 1e9, (1, 1)), (8, 9, 64e9, (8, 1)), (8, 9, 6.1e9, (4, 1)),
    (64, 1000, 64e9, (8, 8)), (20, 1000, 64e9, (8, 2)), (4, 9, None, (1, 1)), (1, 0, 64e9, (1, 1)),
])
def test_workers_follow_songs_and_memory_but_their_threads_only_the_machine(monkeypatch, cores, songs, free, expected):
    monkeypatch.setattr(pool, "cores", lambda: cores)
    monkeypatch.setattr(memory, "available_bytes", lambda: None if free is None else int(free))
    assert pool.share(songs) == expected
