# SPDX-License-Identifier: Apache-2.0
from r1_mllm.distributed import shards
from r1_mllm.distributed.shards import Bucket, Piece, WorldShards, buckets, slices
from r1_mllm.training import sizing

SIZES = {"a": 12, "b": 1, "c": 21, "d": 5}


def test_slices_differ_by_one_number_at_most_and_cut_tensors_where_they_must():
    assert slices(SIZES, 2) == [
        [Piece("a", 0, 12), Piece("b", 0, 1), Piece("c", 0, 6)],
        [Piece("c", 6, 21), Piece("d", 0, 5)],
    ]
    lengths = [sum(piece.size for piece in owned) for owned in slices(SIZES, 5)]
    assert sum(lengths) == 39 and max(lengths) - min(lengths) == 1
    assert [len(owned) for owned in slices({"a": 1}, 3)] == [0, 0, 1]


def test_buckets_hold_every_number_once_last_parameters_first():
    owned = slices(SIZES, 2)
    found = buckets(owned, most=10)
    assert found[:2] == [
        Bucket(1, (Piece("d", 0, 5),)),
        Bucket(1, (Piece("c", 6, 16),)),
    ]
    assert all(sum(piece.size for piece in bucket.pieces) <= 10 for bucket in found)
    numbers = sorted((p.name, i) for bucket in found for p in bucket.pieces for i in range(p.start, p.stop))
    assert numbers == [(name, i) for name, size in SIZES.items() for i in range(size)]
    for bucket in found:
        for piece in bucket.pieces:
            assert any(
                own.name == piece.name and own.start <= piece.start and piece.stop <= own.stop
                for own in owned[bucket.owner]
            )


def test_neighbours_hold_one_copy_and_sums_count_the_first_copy():
    four = [WorldShards(rank, 4, 2) for rank in range(4)]
    assert [process.index for process in four] == [0, 1, 0, 1]
    assert [process.first_copy for process in four] == [True, True, False, False]


def test_a_single_process_exchanges_nothing():
    alone = shards.open_shards(0, 1, 1)
    assert alone == WorldShards(0, 1, 1)
    alone.reduce_to(0, None)
    alone.broadcast_from(0, None)
    assert shards.any_rank(True) and not shards.any_rank(False)


def test_the_estimate_counts_buckets_of_this_size():
    assert sizing.BUCKET == shards.BUCKET_ELEMENTS
