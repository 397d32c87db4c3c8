# SPDX-License-Identifier: Apache-2.0
import pytest

from r1_mllm.config import GrpoConfig, SftConfig, ShardingConfig
from r1_mllm.config.flags import parse


def sharding(*words, kind=GrpoConfig):
    return parse(kind, words, "r1-mllm").sharding


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "none"),
        (("--sharding=",), "none"),
        (("--sharding", "stage1"), "stage1"),
        (("--sharding", "2"), "stage2"),
        (("--sharding=stage3",), "stage3"),
    ],
)
def test_spellings_in_use_name_the_stage(words, expected):
    assert sharding(*words).sharding == expected == sharding(*words, kind=SftConfig).sharding


def test_each_stage_says_what_it_shares_out():
    stages = {stage: ShardingConfig(sharding=stage) for stage in ("none", "stage1", "stage2", "stage3")}
    assert {stage: given.gradients for stage, given in stages.items()} == {
        "none": False,
        "stage1": False,
        "stage2": True,
        "stage3": True,
    }
    assert [stage for stage, given in stages.items() if given.recompute] == ["stage3"]


def test_the_degree_divides_the_processes_or_is_refused_with_those_that_do():
    assert ShardingConfig(sharding="none", sharding_parallel_degree=8).degree(6) == 1
    assert ShardingConfig(sharding="stage1").degree(6) == 6
    assert ShardingConfig(sharding="stage1", sharding_parallel_degree=3).degree(6) == 3
    assert ShardingConfig(sharding="stage1", sharding_parallel_degree=8).degree(1) == 1
    with pytest.raises(ValueError, match="degree 4 does not divide the 6 processes; give 2, 3, 6, or leave it out"):
        ShardingConfig(sharding="stage1", sharding_parallel_degree=4).degree(6)


@pytest.mark.parametrize("words", [("--tensor_parallel_degree", "2"), ("--sharding_parallel_degree=0",)])
def test_degrees_that_cannot_be_are_refused_with_the_cure(words, capsys):
    with pytest.raises(SystemExit) as ended:
        sharding(*words)
    told = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert ended.value.code == 64
    assert "leave it at 1" in told if "tensor" in words[0] else "give -1 (all) or at least 1" in told
