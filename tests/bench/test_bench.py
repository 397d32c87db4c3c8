# SPDX-License-Identifier: Apache-2.0
"""The benchmark does the trainer's work, under the peer's names, with the peer's lengths."""

import ast
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from PIL import Image

from r1_mllm.bench import command, compare, machine
from r1_mllm.bench.data import measure as measure_data
from r1_mllm.bench.forward import measure as measure_forward
from r1_mllm.bench.lengths import LengthEngine
from r1_mllm.bench.load import measure as measure_load
from r1_mllm.bench.rewards import measure as measure_rewards
from r1_mllm.bench.rollout import decode_floor, decode_work
from r1_mllm.bench.rollout import measure as measure_rollout
from r1_mllm.bench.settings import (
    DataBench,
    ForwardBench,
    LoadBench,
    RewardsBench,
    RolloutBench,
    StepBench,
    length_range,
    messages,
    read_folder,
)
from r1_mllm.bench.step import APART, PHASES, Trainer, measure, summarise
from r1_mllm.config import RolloutConfig
from r1_mllm.models.operations import text_operations, vision_operations
from r1_mllm.models.weights import load_pretrained
from r1_mllm.processing.prompt import Processor
from r1_mllm.runtime import DATA, Stop
from r1_mllm.training.optimizer import AdamW

ROOT = Path(__file__).resolve().parents[2]
PEER = ast.parse((ROOT / "tests/bench/bench_peer_step.py").read_text())
PEER_ONLY = {"peer", "trl", "transformers", "torch", "cache"}


def peer_assignment(name):
    """The expression the peer's script assigns to a name."""
    assignments = [node for node in ast.walk(PEER) if isinstance(node, ast.Assign)]
    return next(node.value for node in assignments if ast.unparse(node.targets[0]) == name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as the peer saves it, with the golden tiny checkpoint."""
    path = tmp_path_factory.mktemp("saved") / "model"
    shutil.copytree(ROOT / "tests/golden/cases/e2e/checkpoint", path)
    (path / "images").mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 255, [84, 84, 3], np.uint8)
        Image.fromarray(pixels).save(path / "images" / f"{i:03d}.png")
    questions = ["count the shapes: red?", "count the shapes: two of them?", "count the shapes: all?"]
    (path / "prompts.json").write_text(json.dumps(questions))
    (path / "assets.json").write_text(json.dumps({"size": "tiny", "side": 84, "prompt_tokens": 40}))
    return path


@pytest.fixture
def config(folder):
    return StepBench(str(folder), prompts=2, gens=3, new=5, steps=2, warmup=1)


def engine_and_prompts(folder, **settings):
    processor = Processor.from_pretrained(folder)
    sampling = {name: settings.pop(name) for name in list(settings) if name in RolloutConfig.__dataclass_fields__}
    engine = LengthEngine(load_pretrained(folder), processor.tokenizer, RolloutConfig(**sampling), **settings)
    examples, _ = read_folder(StepBench(str(folder)))
    return engine, [processor.encode(messages(example), example.images) for example in examples]


def test_the_keys_and_phases_are_the_peers(config):
    line = measure(config)
    keys = {keyword.arg for keyword in peer_assignment("res").keywords}
    assert keys - PEER_ONLY <= line.keys()
    assert list(PHASES) == ast.literal_eval(peer_assignment("keys"))
    assert set(line["per_step"][0]) == {*PHASES, "step", "others_cpu"} and len(line["per_step"]) == 2
    assert (line["new_tokens"], line["gens"], line["size"]) == (2 * 3 * 5, 3, "tiny")
    for step in line["per_step"]:
        worked = {name for name in PHASES if step[name] > 0}
        assert worked >= {"generate", "ref_logprob", "policy_forward", "loss_total", "backward", "optimizer"}
        assert step["loss_total"] >= step["policy_forward"]
        assert sum(step[name] for name in APART) <= step["step"] + 1e-3


def test_medians_are_the_peers_upper_ones():
    seconds = [dict.fromkeys(PHASES, 1.0) | {"step": step, "others_cpu": 0.1} for step in (20.0, 12.0, 10.0, 14.0)]
    line = summarise(seconds, 70)
    assert (line["step_s"], line["step_min_s"], line["policy_fwd_bwd_s"]) == (14.0, 10.0, 2.0)
    assert line["other_s"] == 14.0 - len(APART)
    assert (line["gen_tok_s"], line["step_tok_s"]) == (70.0, 5.0)


def test_watching_changes_nothing(config):
    watched, plain = Trainer(config), Trainer(config)
    plain.optimizer = AdamW(plain.model.named_parameters(), plain.config.optimizer)
    del plain.model.token_logp
    start = [parameter.numpy() for parameter in plain.model.parameters()]
    watched.run(0)
    plain.run(0)
    timed, untimed = ([p.numpy() for p in trainer.model.parameters()] for trainer in (watched, plain))
    assert all((a == b).all() for a, b in zip(timed, untimed, strict=True))
    assert any((a != b).any() for a, b in zip(timed, start, strict=True))


def test_nothing_stops_before_its_length(folder):
    engine, prompts = engine_and_prompts(folder, max_completion_length=40)
    stops = engine.tokenizer.stop_ids
    for done in (done for group in engine.generate(prompts, 3, seed=1) for done in group):
        assert len(done.ids) == 40 and not np.isin(done.ids, stops).any() and not done.finished


def test_a_model_that_wants_to_stop_is_not_let(folder):
    engine, _ = engine_and_prompts(folder)
    logits = np.zeros([16, engine.model.arch.text.vocab_size], np.float32)
    logits[:, list(engine.tokenizer.stop_ids)] = 30.0
    uniforms = np.linspace(0, 0.999, 16, dtype=np.float32)
    for greedy in (False, True):
        draw = engine.sampler(greedy).choose(paddle.to_tensor(logits), uniforms, None)
        assert not np.isin(draw.ids, engine.tokenizer.stop_ids).any()


@pytest.mark.parametrize("batch_rows", [12, 4])
def test_lengths_follow_the_peers_rule_however_rows_are_scheduled(folder, batch_rows):
    engine, prompts = engine_and_prompts(
        folder, max_completion_length=9, rollout_batch_rows=batch_rows, lengths=(2, 9), seed=7
    )
    for call in range(2):
        expected = np.random.default_rng(7 + call).integers(2, 10, 12)
        completions = [done for group in engine.generate(prompts, 4, seed=call) for done in group]
        assert [len(done.ids) for done in completions] == expected.tolist()
        for done in completions:
            assert not np.isin(done.ids, engine.tokenizer.stop_ids).any()
    assert expected.min() < expected.max()


@pytest.mark.parametrize("lengths", ["9:4", "0:4", "7", "a:b", "-1:3"])
def test_lengths_that_make_no_sense_are_refused(lengths):
    with pytest.raises(Stop, match="LO:HI"):
        length_range(StepBench("m", lengths=lengths))


@pytest.mark.parametrize(("change", "says"), [({"side": 616}, "side 84, not 616"), ({"prompts": 4}, "has 3")])
def test_a_folder_with_other_work_is_refused(config, change, says):
    with pytest.raises(Stop, match=says) as stopped:
        read_folder(replace(config, **change))
    assert stopped.value.code == DATA


def test_sampling_is_timed_beside_its_floor(folder):
    line = measure_rollout(RolloutBench(str(folder), prompts=2, gens=2, new=12, steps=1, warmup=0))
    assert line["floor_ms"] == max(line["floor_read_ms"], line["floor_multiply_ms"]) > 0
    assert line["times_floor"] == pytest.approx(line["decode_step_ms"] / line["floor_ms"], rel=0.02)
    assert line["times_floor_each"] == [line["times_floor"]]


def test_a_step_is_compared_with_what_the_machine_gave_around_it():
    # reading 8 bytes takes 4, 2, 8 ms and multiplying 3 numbers 1, 3, 12 ms: around the two steps 3 and 2, 5 and 7.5
    floor, times = decode_floor(8, 3, [9.0, 30.0], [(2e3, 3e3), (4e3, 1e3), (1e3, 0.25e3)])
    assert times == pytest.approx([9 / 3, 30 / 7.5])
    assert (floor["floor_read_ms"], floor["floor_multiply_ms"], floor["floor_ms"]) == (4.0, 4.75, 5.25)


def test_the_work_of_a_decode_step_is_weights_prefixes_and_tails():
    arch = SimpleNamespace(num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=5)
    # keys and values of a token: 3 layers * 2 * 2 heads * 5 = 60; cached tokens: 2 prompts * 7 + 6 rows * 4
    num_bytes, num_flops = decode_work(arch, 1000, groups=2, rows=6, prompt=7, new=8)
    assert num_bytes == 4 * (1000 + 60 * 38)
    assert num_flops == 6 * (2 * 1000 + 4 * 3 * 4 * 5 * 11)


def run_of(steps, **changes):
    """One side's JSON line: steps as (seconds, others_cpu), every phase a tenth of its step."""
    per_step = [
        dict.fromkeys(PHASES, seconds / 10) | {"step": seconds, "others_cpu": others} for seconds, others in steps
    ]
    return dict.fromkeys(compare.SAME, 1) | {"per_step": per_step, "peak_rss_mb": 500} | changes


def test_ratios_are_of_medians_over_quiet_steps():
    peer = [run_of([(1.0, 0.1), (90.0, 0.2)]), run_of([(3.0, 0.0), (2.0, 0.19)])]
    ours = [run_of([(0.1, 1.5), (0.5, 0.0)], peak_rss_mb=200)]
    result = compare.compare(peer, ours)
    assert result["rows"]["step"] == {"peer_s": 2.0, "ours_s": 0.5, "ratio": 4.0}
    assert result["quiet_steps"] == {"peer": "3 of 4", "ours": "1 of 2"}
    assert result["peak_rss_mb"]["ours_over_peer"] == 0.4
    assert "4.00" in compare.table(result)


def test_other_work_and_noise_are_refused():
    with pytest.raises(Stop, match="gens 8, not 1"):
        compare.compare([run_of([(1.0, 0.0)])], [run_of([(1.0, 0.0)], gens=8)])
    with pytest.raises(Stop, match="no step of ours"):
        compare.compare([run_of([(1.0, 0.0)])], [run_of([(1.0, 0.3)])])


def test_flags_are_checked_before_paddle_loads(capsys):
    with pytest.raises(Stop, match="at least 1"):
        command.step(["--model", "nowhere", "--prompts", "0"])
    with pytest.raises(Stop, match="unknown flag --genz"):
        command.step(["--model", "nowhere", "--genz", "3"])


STUB = """#!{python}
import json, shutil, sys
if sys.argv[1] != "-c":
    flags = dict(zip(sys.argv[2::2], sys.argv[3::2]))
    shutil.copytree({folder!r}, flags["--save"], dirs_exist_ok=True)
    open(flags["--json"], "w").write({line!r})
"""


@pytest.mark.slow
def test_the_script_runs_both_and_prints_ratios(folder, config, tmp_path):
    line = measure(replace(config, prompts=1, gens=2, new=4, steps=1, threads=1)) | {"threads": 1}
    peer = tmp_path / "peer-python"
    peer.write_text(STUB.format(python=sys.executable, folder=str(folder), line=json.dumps(line)))
    peer.chmod(0o755)
    settings = {
        "PEER_PYTHON": str(peer),
        "OUT": str(tmp_path / "out"),
        "QUIET": "99",
        "ROUNDS": "1",
        "STEPS": "1",
        "WARMUP": "1",
    }
    environment = {**os.environ, **settings, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    words = ["--size", "tiny", "--prompts", "1", "--gens", "2", "--new", "4", "--side", "84", "--threads", "1"]
    done = subprocess.run(
        ["sh", str(ROOT / "scripts/bench_vs_peer.sh"), *words],
        capture_output=True,
        text=True,
        env=environment,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert "quiet steps: peer 1 of 1, ours 1 of 1" in done.stdout
    assert json.loads((tmp_path / "out" / "ratios.json").read_text())["rows"]["step"]["ratio"] > 0


def test_operations_of_a_pass_by_hand():
    """Two tokens of prompt, completions of 1 and 2: 1+2 pairs among the prompt, 3 and 3+4 from the completions."""
    text = SimpleNamespace(
        num_attention_heads=4, num_key_value_heads=2, head_dim=3, hidden_size=5, intermediate_size=7,
        num_hidden_layers=2, vocab_size=11,
    )  # fmt: skip
    visible_until = np.array([5, 5, 3, 5, 5])
    weights = 5 * (12 + 6 + 6) + 12 * 5 + 3 * 5 * 7
    by_hand = 2 * (2 * 5 * weights + 4 * 13 * 12) + 2 * 3 * 5 * 11
    assert text_operations(text, visible_until, 3) == by_hand
    vision = SimpleNamespace(
        depth=3, hidden_size=6, intermediate_size=10, mlp="swiglu", window_size=0, full_attention_blocks=(),
        patch_size=14, merge_size=2, patch_dim=8, out_hidden_size=9,
    )  # fmt: skip
    grids = np.array([[1, 2, 4], [2, 2, 2]])  # 8 patches, and twice 4
    by_hand = 2 * 16 * (8 * 6 + 3 * (4 * 36 + 3 * 60)) + 3 * 4 * (64 + 16 + 16) * 6 + 2 * 4 * 24 * (24 + 9)
    assert vision_operations(vision, grids) == by_hand


def test_forward_bench_counts_what_it_runs(folder, monkeypatch):
    monkeypatch.setattr(machine, "gemm_rate", lambda: 1e11)
    result = measure_forward(ForwardBench(str(folder), prompts=2, gens=2, new=3, steps=1, warmup=1))
    assert result["tokens"] > 2 * 2 * 3 and result["packs"] in (1, 2)
    assert 0 < result["forward_floor_s"] < result["forward_s"] < result["forward_backward_s"]
    assert result["forward_backward_floor_s"] == pytest.approx(3 * result["forward_floor_s"], rel=0.2)


def test_load_bench_makes_and_loads_a_checkpoint(folder, tmp_path):
    result = measure_load(LoadBench(str(tmp_path / "made"), make=str(folder)))
    files = list((tmp_path / "made").glob("*.safetensors"))
    assert result["checkpoint_mb"] == round(sum(file.stat().st_size for file in files) / 1e6)
    assert result["load_cold_s"] > 0 and result["load_warm_s"] > 0
    model = load_pretrained(tmp_path / "made")
    values = np.abs(model.text.embed_tokens.weight.numpy())
    assert 0.005 < values.min() and values.max() < 0.04


def test_rewards_bench_pays_half(folder):
    result = measure_rewards(RewardsBench(num=40))
    assert [result[f"{kind}_right"] for kind in ("boxes", "numbers", "math", "symbolic")] == [20, 20, 20, 1]


def test_data_bench_takes_every_picture():
    result = measure_data(DataBench(num=17, width=64, height=48))
    assert result["jpeg_per_s_0_workers"] > 0 and result["png_per_s_2_workers"] > 0
