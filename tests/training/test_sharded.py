# SPDX-License-Identifier: Apache-2.0
"""Several processes train as one does: data parallel, with sharded state, and with sharded gradients."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file

from r1_mllm.config import OptimizerConfig, SftConfig
from r1_mllm.config.flags import parse
from r1_mllm.data.pack import supervised_pair
from r1_mllm.distributed import shards
from r1_mllm.distributed.shards import WorldShards
from r1_mllm.models import threads
from r1_mllm.models.weights import load_pretrained
from r1_mllm.records import Prompt
from r1_mllm.training import sft
from r1_mllm.training.optimizer import AdamW
from r1_mllm.training.sharded import ShardedAdamW
from r1_mllm.training.state_file import StateFile

WORKER = Path(__file__).with_name("sharded_ranks.py")
STEPS = 20


def environment():
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PADDLE_")}
    return kept | {"OMP_NUM_THREADS": "1"}


def launch(num, task, folder, *flags, inside=(), **variables):
    """Start a launcher of `num` processes, in its own network namespace with `inside`."""
    folder.mkdir(exist_ok=True)
    (folder / "task.json").write_text(json.dumps(task))
    command = [
        *inside,
        sys.executable,
        "-m",
        "paddle.distributed.launch",
        "--nproc_per_node",
        num,
        "--log_dir",
        folder / "log",
    ]
    command += [*flags, WORKER, folder / "task.json", folder / "seen.json"]
    return subprocess.Popen(
        [str(word) for word in command],
        env=environment() | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait(process, folder):
    told, _ = process.communicate(timeout=300)
    assert process.returncode == 0, told[-5000:]
    return json.loads((folder / "seen.json").read_text())


@pytest.fixture(scope="module")
def conversations(request, tmp_path_factory):
    """Rows with a picture and without, of very unequal lengths."""
    folder = tmp_path_factory.mktemp("rows")
    pictures = sorted((request.config.rootpath / "tests/golden/cases/e2e/images").iterdir())
    for picture in pictures:
        shutil.copy(picture, folder)
    rows = []
    for i in range(18):
        seen = i % 3 == 0
        turns = [
            {"role": "user", "content": "<image>" * seen + f"Question {i}?"},
            {"role": "assistant", "content": " ".join([f"It is {i % 4}."] * (1 + 7 * (i % 5)))},
        ]
        rows.append({"messages": turns, "images": [pictures[i % len(pictures)].name] * seen})
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "train.jsonl"


@pytest.fixture(scope="module")
def words(request, conversations):
    """The flags of a run on `batch` rows per process, 4 in all."""
    checkpoint = request.config.rootpath / "tests/golden/cases/e2e/checkpoint"

    def spell(out, batch, *more):
        return [
            *("--model_name_or_path", str(checkpoint), "--dataset_name", str(conversations), "--output_dir", str(out)),
            *("--max_steps", str(STEPS), "--save_steps", str(STEPS // 2), "--per_device_train_batch_size", str(batch)),
            *("--learning_rate", "1e-4", "--weight_decay", "0.1", "--max_grad_norm", "1.0", "--report_to", "none"),
            *("--tokens_per_pack", "96", "--adam_epsilon", "1e-4", "--dataloader_num_workers", "0", *more),
        ]

    return spell


@pytest.fixture(scope="module")
def alone(words, tmp_path_factory):
    """The same run in one process."""
    folder = tmp_path_factory.mktemp("alone")
    sft.train(parse(SftConfig, words(folder / "run", 4), "sft"))
    return folder / "run"


def assert_same_end(run, alone, steps=STEPS):
    mine, wanted = (load_file(folder / f"checkpoint-{steps}" / "model.safetensors") for folder in (run, alone))
    assert mine.keys() == wanted.keys()
    for name in wanted:
        np.testing.assert_allclose(mine[name], wanted[name], atol=1e-5, err_msg=name)
    state, expected = (load_file(folder / f"checkpoint-{steps}/state/optimizer.safetensors") for folder in (run, alone))
    assert {name: array.shape for name, array in state.items()} == {n: array.shape for n, array in expected.items()}
    for name in expected:
        np.testing.assert_allclose(state[name], expected[name], atol=1e-5, rtol=1e-2, err_msg=name)
    lines, others = ([json.loads(x) for x in (folder / "metrics.jsonl").open()] for folder in (run, alone))
    losses = {line["step"]: line["loss"] for line in others if "loss" in line}
    mine = {line["step"]: line["loss"] for line in lines if "loss" in line}
    assert mine and all(value == pytest.approx(losses[step], rel=1e-4) for step, value in mine.items())


def test_sharding_among_one_process_is_plain_adamw_and_its_file_reads_back(tmp_path):
    rng = np.random.default_rng(3)
    values = {"w": rng.normal(size=(3, 5)), "b": rng.normal(size=4), "frozen": rng.normal(size=2)}
    gradients = {name: rng.normal(size=value.shape).astype(np.float32) for name, value in values.items()}
    config = OptimizerConfig(weight_decay=0.2, max_grad_norm=0.3)

    def train(make, dtype):
        weights = {name: paddle.to_tensor(v.astype(np.float32)).astype(dtype) for name, v in values.items()}
        for name, weight in weights.items():
            weight.stop_gradient = name == "frozen"
        optimizer = make(weights.items())
        for _ in range(3):
            optimizer.begin()
            loss = sum((weights[name].astype("float32") * paddle.to_tensor(g)).sum() for name, g in gradients.items())
            loss.backward()
            optimizer.accumulate()
            optimizer.reduce_gradients()
            optimizer.step(0.1, optimizer.grad_norm())
        return weights, optimizer

    for dtype in ("float32", "bfloat16"):
        plain, first = train(lambda named: AdamW(named, config), dtype)
        for stage2 in (False, True):
            mine, second = train(lambda named, s=stage2: ShardedAdamW(named, config, WorldShards(0, 1, 1), s), dtype)
            assert all((mine[name].numpy() == plain[name].numpy()).all() for name in values)
            for number, optimizer in enumerate((first, second)):
                optimizer.write_state(tmp_path / f"{number}.safetensors")
            one, two = (StateFile(tmp_path / f"{number}.safetensors") for number in range(2))
            assert sorted(one) == sorted(second.state_dict_shapes()) and one.shapes == two.shapes
            assert all((one[name] == two[name]).all() for name in one)
            assert ("w/master" in one) is (dtype == "bfloat16")
            second.load_state_dict(one)
            assert second.num_steps == 3
    with pytest.raises(ValueError, match="b/moment1: missing"):
        first.load_state_dict({name: array for name, array in one.items() if name != "b/moment1"})


def test_a_full_disk_is_reported_after_all_arrays_were_gathered(tmp_path, monkeypatch):
    weight = paddle.ones([3])
    weight.stop_gradient = False
    optimizer = ShardedAdamW([("w", weight)], OptimizerConfig(), WorldShards(0, 1, 1))
    taken = []
    plain = optimizer.gathered
    monkeypatch.setattr(optimizer, "gathered", lambda: (taken.append(pair[0]) or pair for pair in plain()))
    with pytest.raises(OSError, match="No such file"):
        optimizer.write_state(tmp_path / "gone" / "x")
    assert taken == ["step", "w/moment1", "w/moment2"]


def test_buckets_leave_during_a_backward_pass_that_recomputes_blocks(request, monkeypatch):
    folder = request.config.rootpath / "tests/golden/cases/e2e/checkpoint"
    monkeypatch.setattr(threads, "count", lambda: 1)
    monkeypatch.setattr(shards.buckets, "__defaults__", (20_000,))
    ids = np.arange(5, 45)
    prompt = Prompt(ids=ids[:8], positions=np.tile(np.arange(8), (3, 1)), next_position=8)
    pairs = [supervised_pair(prompt, ids[8:]), supervised_pair(prompt, ids[20:])]
    config, ends, early = OptimizerConfig(learning_rate=1e-3), [], []
    for recompute in (False, True):
        model = load_pretrained(folder)
        model.recompute = recompute
        optimizer = AdamW(model.named_parameters(), config)
        if recompute:
            optimizer = ShardedAdamW(model.named_parameters(), config, WorldShards(0, 1, 1), split_gradients=True)
            plain = optimizer.accumulate
            optimizer.accumulate = lambda o=optimizer, plain=plain: (early.append(o._round.next), plain())
        for _ in range(2):
            sft.supervised_step(model, pairs, optimizer, 1e-3, tokens_per_pack=45)
        ends.append({name: parameter.numpy() for name, parameter in model.named_parameters()})
    assert len(early) == 4 and min(early) > 0  # buckets sent before the pass had ended
    for name, wanted in ends[0].items():
        np.testing.assert_allclose(ends[1][name], wanted, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_two_processes_train_as_one_and_four_go_on_with_what_they_saved(request, words, alone, tmp_path):
    stages = {"dp": (), "stage1": ("--sharding", "stage1"), "stage2": ("--sharding", "stage2")}
    runs = [words(tmp_path / stage, 2, *flags) for stage, flags in stages.items()]
    grpo = [grpo_words(request, tmp_path, *flags) for flags in (("--sharding", "stage2"), PEFT, SYNC)]
    seen = wait(launch(2, {"train": runs, "grpo": grpo}, tmp_path / "two"), tmp_path / "two")
    assert seen["train"] == {"steps": 3 * STEPS + 3 * 2, "same": True, "references": [[0.3, True], [0.3, True]]}
    check_grpo(tmp_path)
    check_reference(request.config.rootpath / "tests/golden/cases/e2e/checkpoint", tmp_path / "grpo-none")
    for stage in stages:
        assert_same_end(tmp_path / stage, alone)
    start = ("--resume_from_checkpoint", str(tmp_path / "stage2" / f"checkpoint-{STEPS // 2}"))
    sft.train(parse(SftConfig, words(tmp_path / "one", 4, *start), "sft"))
    assert_same_end(tmp_path / "one", alone)
    four = words(tmp_path / "four", 1, *start, "--sharding", "stage2", "--sharding_parallel_degree", "2")
    seen = wait(launch(4, {"compare": True, "train": [four]}, tmp_path / "all"), tmp_path / "all")
    check_comparison(seen["compare"])
    assert seen["train"] == {"steps": STEPS // 2, "same": True, "references": []}
    assert_same_end(tmp_path / "four", alone)


SYNC = ("--sharding", "none", "--beta", "0.04", "--sync_ref_model", "True", "--ref_model_sync_steps", "1")
SYNC += ("--ref_model_mixup_alpha", "0.3", "--save_steps", "1")
PEFT = ("--sharding", "stage1", "--use_peft", "--lora_r", "2", "--beta", "0.04")


def grpo_words(request, folder, *more):
    """The flags of a GRPO run in which rank 0 may draw questions with and rank 1 without a picture, or the reverse."""
    pictures = request.config.rootpath / "tests/golden/cases/e2e/images"
    rows = [{"problem": f"{i} + 1", "solution": i} for i in range(8)]
    for row in rows[::2]:
        row["images"] = [sorted(path.name for path in pictures.iterdir())[0]]
    (folder / "rows.json").write_text(json.dumps(rows))
    return [
        *("--model_name_or_path", str(pictures.parent / "checkpoint"), "--dataset_name", str(folder / "rows.json")),
        *("--image_root", str(pictures), "--task", "counting", "--output_dir", str(folder / f"grpo-{more[1]}")),
        *("--max_steps", "2", "--num_generations", "2", "--max_completion_length", "6", "--report_to", "none"),
        *("--per_device_train_batch_size", "2", "--tokens_per_pack", "64", "--learning_rate", "1e-3", "--beta", "0"),
        *more,
    ]


def check_grpo(folder):
    """Ranks never shared a question, and adapters alone were saved."""
    for name in ("stage1", "stage2"):
        rows = [json.loads(line) for line in (folder / f"grpo-{name}" / "completions.jsonl").open()]
        assert sorted(row["ground_truth"] for row in rows) == sorted([*range(8), *range(8)])
    assert (folder / "grpo-stage1" / "checkpoint-2" / "adapter_model.safetensors").is_file()


def check_reference(start, run):
    """Two ranks' reference is the mixture of the weights they share: by hand after each step."""
    wanted = load_file(start / "model.safetensors")
    for step in (1, 2):
        policy = load_file(run / f"checkpoint-{step}" / "model.safetensors")
        found = load_file(run / f"checkpoint-{step}" / "state/reference/model.safetensors")
        wanted = {name: np.float32(0.3) * policy[name] + np.float32(0.7) * wanted[name] for name in wanted}
        for name in wanted:
            np.testing.assert_allclose(found[name], wanted[name], rtol=1e-6, atol=1e-8, err_msg=name)


def check_comparison(cases):
    assert len(cases) == 12
    numbers = 12 + 4 + 5 + 21 + 4
    for case, found in cases.items():
        degree = int(case.split(", ")[1])
        assert found["weights"] < (1e-2 if "bfloat16" in case else 1e-6), case
        assert found["norm"] < 1e-5 and found["state"] < 1e-5, case
        assert found["held"] in (2 * (numbers // degree), 2 * (-(-numbers // degree))), case
        assert found["never"] == 0 and found["left"] == 0, case


@pytest.mark.slow
def test_two_launchers_train_as_two_nodes(words, alone, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        master = f"127.0.0.1:{probe.getsockname()[1]}"
    task = {"train": [words(tmp_path / "run", 2, "--sharding", "stage2")]}
    nodes = [launch(1, task, tmp_path / f"node{rank}", *as_node(rank, master)) for rank in (0, 1)]
    assert_trained(nodes, tmp_path, alone)


def as_node(rank, master):
    return "--master", master, "--nnodes", 2, "--rank", rank


def assert_trained(nodes, folder, alone):
    first = wait(nodes[0], folder / "node0")
    told, _ = nodes[1].communicate(timeout=60)
    assert nodes[1].returncode == 0, told[-3000:]
    assert first["train"] == {"steps": STEPS, "same": True, "references": []}
    assert_same_end(folder / "run", alone)


@pytest.fixture
def namespaces():
    """Two network namespaces that see nothing but each other; skips where that is not permitted."""
    names = [f"r1n{os.getpid()}{side}" for side in "ab"]
    cables = [f"r1v{os.getpid()}{side}" for side in "ab"]
    addresses = ["10.77.0.1", "10.77.0.2"]

    def ip(*words):
        return subprocess.run(["ip", *words], capture_output=True, text=True)

    try:
        if shutil.which("ip") is None or any(ip("netns", "add", name).returncode for name in names):
            pytest.skip("making network namespaces is not permitted here")
        assert ip("link", "add", cables[0], "netns", names[0], "type", "veth", "peer", cables[1], "netns", names[1])
        for name, cable, address in zip(names, cables, addresses, strict=True):
            done = [
                ip("-n", name, "addr", "add", f"{address}/24", "dev", cable),
                ip("-n", name, "link", "set", cable, "up"),
                ip("-n", name, "link", "set", "lo", "up"),
            ]
            assert not any(step.returncode for step in done), done
        yield list(zip(names, cables, addresses, strict=True))
    finally:
        for name in names:
            ip("netns", "del", name)


@pytest.mark.slow
def test_two_launchers_in_network_namespaces_of_their_own_train_as_two_nodes(words, alone, tmp_path, namespaces):
    task = {"train": [words(tmp_path / "run", 2, "--sharding", "stage1")]}
    nodes = [
        launch(
            *(1, task, tmp_path / f"node{rank}", *as_node(rank, f"{namespaces[0][2]}:8377"), "--host", address),
            inside=("ip", "netns", "exec", name),
            GLOO_SOCKET_IFNAME=cable,
        )
        for rank, (name, cable, address) in enumerate(namespaces)
    ]
    assert_trained(nodes, tmp_path, alone)
