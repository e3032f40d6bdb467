"""Shards: everything, nothing twice, about equal, and the same on every machine."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from separator.batch.shard import Shard, assign, keys, weights
from separator.errors import UsageError

LENGTHS = st.dictionaries(st.text(max_size=9), st.floats(0, 1e5), max_size=60)


@given(LENGTHS, st.integers(1, 9))
def test_shards_are_a_partition_whose_loads_differ_by_one_song_at_most(songs: dict[str, float], count: int) -> None:
    shards = assign(songs, count)
    assert len(shards) == count
    assert sorted(key for shard in shards for key in shard) == sorted(songs)
    loads = [math.fsum(songs[key] for key in shard) for shard in shards]
    assert max(loads) - min(loads) <= max(songs.values(), default=0) * (1 + 1e-9)


@given(LENGTHS, st.integers(1, 9), st.randoms(use_true_random=False))
def test_the_order_of_the_list_does_not_matter(songs: dict[str, float], count: int, shuffle: random.Random) -> None:
    names = list(songs)
    shuffle.shuffle(names)
    assert assign({name: songs[name] for name in names}, count) == assign(songs, count)


def test_a_library_is_balanced_to_less_than_its_shortest_song() -> None:
    rng = random.Random(0)
    songs = {f"album {i // 12}/{i % 12}.mp3": rng.lognormvariate(math.log(220), 0.4) for i in range(2000)}
    loads = [sum(songs[key] for key in shard) for shard in assign(songs, 16)]
    assert max(loads) - min(loads) < min(songs.values())    # in another order it would be a typical song's length
    # songs of one length are spread too: no shard gets whole albums
    equal = assign(dict.fromkeys(songs, 1.0), 16)
    assert {len(shard) for shard in equal} == {125}
    assert all(len({key.split("/")[0] for key in shard}) > 60 for shard in equal)


def test_keys_do_not_tell_where_the_library_is_mounted() -> None:
    songs = ["a/1.mp3", "a/2.mp3", "b/c/1.mp3"]
    assert keys([Path("/mnt/x") / song for song in songs]) == keys([Path("/home/me") / song for song in songs]) == songs
    assert keys([Path("1.mp3")]) == ["1.mp3"]
    assert keys([]) == []


def test_unknown_lengths_are_estimated_from_the_bytes_of_the_others() -> None:
    assert weights([10.0, None, 30.0], [100, 50, 300]) == [10.0, 5.0, 30.0]
    assert weights([None, None], [7, 9]) == [7, 9]
    assert weights([0.0, None], [0, 9]) == [0.0, 9]


def test_names_of_manifests_differ_and_wrong_parts_are_refused() -> None:
    assert Shard().manifest == "manifest.jsonl"
    assert {Shard(i, 3).manifest for i in (1, 2, 3)} == {f"manifest-{i}-of-3.jsonl" for i in (1, 2, 3)}
    for index, count in ((0, 3), (4, 3), (1, 0)):
        with pytest.raises(UsageError):
            Shard(index, count)
