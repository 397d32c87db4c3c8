# SPDX-License-Identifier: Apache-2.0
"""Adapters: their gradients against dense ones, merging, switching off, dropout, and peft's own files."""

import json
import subprocess
from pathlib import Path

import numpy as np
import paddle
import pytest

from r1_mllm.config.lora import ExportConfig
from r1_mllm.data.pack import pack, supervised_pair
from r1_mllm.models import adapter_files, lora, team, threads
from r1_mllm.models.lora import AdapterSpec
from r1_mllm.models.weights import load_pretrained, save_pretrained
from r1_mllm.processing.prompt import Processor
from r1_mllm.rollout.decoder import Decoder
from r1_mllm.training.export import export

ROOT = Path(__file__).parents[2]
ORACLE = ROOT / ".venv-oracle" / "bin" / "python"
FOLDER = ROOT / "tests" / "golden" / "cases" / "e2e"
MODELS = ROOT / "tests" / "golden" / "cases" / "models"
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SPEC = AdapterSpec(3, 5.0, ALL, ".*visual.*")


@pytest.fixture(scope="module")
def batches():
    processor = Processor.from_pretrained(FOLDER / "checkpoint")
    groups = []
    for i, name in enumerate(("a.png", None, "c.png")):
        content = [{"type": "image"}] * (name is not None) + [{"type": "text", "text": "How many? " * (i + 1)}]
        images = [str(FOLDER / "images" / name)] if name else []
        groups.append(
            supervised_pair(processor.encode([{"role": "user", "content": content}], images), np.arange(20, 26 + i))
        )
    return [pack([group], 4096, [processor.tokenizer.image_pad_id])[0] for group in groups]


def with_adapters(spec=SPEC, dropout=0.0):
    """The tiny model with adapters that do something."""
    model = load_pretrained(FOLDER / "checkpoint")
    lora.attach(model, spec, dropout, seed=7)
    rng = np.random.default_rng(5)
    for _, adapter in lora.adapters(model):
        adapter.b.set_value(rng.normal(0, 0.05, adapter.b.shape).astype(np.float32))
    return model


def loss(model, batch):
    weight = np.where(batch.mask, np.arange(1, len(batch.mask) + 1) / 40, 0).astype(np.float32)
    return -paddle.dot(paddle.to_tensor(weight), model.token_logp(batch))


@pytest.mark.parametrize("spec", [SPEC, AdapterSpec(2, 3.0, ("k_proj", "gate_proj"), None)])
def test_gradients_are_the_dense_ones_projected(batches, spec):
    model, dense = with_adapters(spec), with_adapters(spec)
    lora.merge(dense)
    loss(model, batches[0]).backward()
    loss(dense, batches[0]).backward()
    layers = dict(dense.named_sublayers())
    seen = 0
    for parameter, layer in lora.fused_modules(model):
        if layer.adapter is None:
            continue
        full, start = layers[parameter.name.removesuffix(".weight")].weight.grad.numpy(), 0
        for name, width in layer.adapter.modules:
            columns, start = full[:, start : start + width], start + width
            if not spec.chooses(name):
                continue
            part, scale = layer.adapter.parts[name.rpartition(".")[2]], spec.alpha / spec.rank
            want_a, want_b = scale * columns @ part.b.numpy().T, scale * part.a.numpy().T @ columns
            for found, want in ((part.a.grad.numpy(), want_a), (part.b.grad.numpy(), want_b)):
                np.testing.assert_allclose(found, want, atol=2e-5 * np.abs(want).max() + 1e-7, err_msg=name)
            seen += 1
    assert seen == len(list(lora.adapters(model))) > 3
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {
        name for name, p in model.named_parameters() if ".adapter." in name
    }


def test_merged_weights_give_the_same_logp_and_sampling_reads_them(batches):
    model, merged, base = with_adapters(), with_adapters(), load_pretrained(FOLDER / "checkpoint")
    lora.merge(merged)
    with paddle.no_grad():
        for batch in batches:
            ours, theirs = (one.token_logp(batch).numpy() for one in (model, merged))
            np.testing.assert_allclose(ours, theirs, atol=2e-5)
            assert np.abs(ours - base.token_logp(batch).numpy()).max() > 0.01
    assert all(layer.adapter is None for _, layer in lora.fused_modules(merged))
    assert all(not p.stop_gradient for p in merged.parameters())
    for ours, theirs in zip(Decoder(model).layers, Decoder(merged).layers, strict=True):
        for name in ("qkv", "o", "gate_up", "down"):
            np.testing.assert_array_equal(getattr(ours, name).numpy(), getattr(theirs, name).numpy())


def test_the_network_without_adapters_has_the_bits_of_the_base_and_none_of_its_memory(batches):
    model, base = with_adapters(), load_pretrained(FOLDER / "checkpoint")
    reference = lora.without_adapters(model)
    with paddle.no_grad():
        for batch in batches:
            assert (reference.token_logp(batch).numpy() == base.token_logp(batch).numpy()).all()
    shared = dict(model.named_parameters())
    assert all(p.data_ptr() == shared[name].data_ptr() for name, p in reference.named_parameters())


def test_a_new_adapter_changes_nothing_and_depends_on_seed_and_name_only(batches):
    base = load_pretrained(FOLDER / "checkpoint")
    found = []
    for targets, seed in ((ALL, 1), (("q_proj",), 1), (("q_proj",), 2)):
        model = load_pretrained(FOLDER / "checkpoint")
        lora.attach(model, AdapterSpec(4, 8.0, targets, ".*visual.*"), seed=seed)
        with paddle.no_grad():
            np.testing.assert_allclose(
                model.token_logp(batches[0]).numpy(), base.token_logp(batches[0]).numpy(), atol=1e-5
            )
        found.append(dict(lora.adapters(model))["model.layers.1.self_attn.q_proj"].a.numpy())
    assert (found[0] == found[1]).all() and (found[0] != found[2]).any()
    assert np.abs(found[0]).max() <= found[0].shape[0] ** -0.5


def test_dropout_follows_its_seed_and_happens_in_training_passes_only(batches):
    model = with_adapters(dropout=0.4)
    plain = with_adapters().token_logp(batches[0]).numpy()
    assert (model.token_logp(batches[0]).numpy() == plain).all()
    runs = []
    for seed in (3, 3, 4):
        with lora.dropping(model, seed):
            runs.append(model.token_logp(batches[0]).numpy())
    assert (runs[0] == runs[1]).all() and (runs[0] != runs[2]).any() and (runs[0] != plain).any()
    assert (model.token_logp(batches[0]).numpy() == plain).all()


def test_dropout_keeps_the_mean_of_an_adapters_output():
    adapter = lora.FusedAdapter([("m.x", 3), ("m.y", 2)], 4, AdapterSpec(2, 2.0, ("x",)), "float32")
    adapter.dropout = 0.25
    part = adapter.parts["x"]
    part.a.set_value(np.arange(8, dtype=np.float32).reshape(4, 2))
    part.b.set_value(np.arange(1, 7, dtype=np.float32).reshape(2, 3) / 10)
    x = paddle.ones([4000, 4])
    want = adapter(x).numpy()
    adapter.seed = 11
    found = adapter(x).numpy()
    np.testing.assert_allclose(found.mean(0), want.mean(0), rtol=0.05)
    assert (found[:, 3:] == 0).all() and len(np.unique(found[:, 0].round(4))) > 4


@pytest.mark.parametrize("num_threads", [1, 2])
def test_threads_and_recomputation_leave_the_same_gradients(batches, monkeypatch, num_threads):
    want = None
    for recompute, size in ((False, 1), (True, 1), (False, num_threads), (True, num_threads)):
        model = with_adapters(dropout=0.3)
        model.recompute = recompute
        monkeypatch.setattr(threads, "count", lambda size=size: size)

        def backward(member, item):
            number, batch = item
            with lora.dropping(member, 50 + number):
                loss(member, batch).backward()

        team.run(model, backward, list(enumerate(batches)))
        grads = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
        want = want or grads
        assert grads.keys() == want.keys() == {n for n, _ in model.named_parameters() if ".adapter." in n}
        for name, grad in grads.items():
            np.testing.assert_allclose(grad, want[name], atol=1e-5 * np.abs(want[name]).max() + 1e-8, err_msg=name)


def test_adapters_in_the_vision_tower_learn(batches):
    for recompute in (False, True):
        model = with_adapters(AdapterSpec(2, 4.0, (r"visual\.blocks\..*qkv|visual\.merger\.mlp\.2",)))
        model.recompute = recompute
        loss(model, batches[0]).backward()
        grads = [p.grad for name, p in model.named_parameters() if ".adapter." in name]
        assert len(grads) > 3 and all(float(grad.abs().sum()) > 0 for grad in grads)


def test_targets_are_endings_patterns_or_everything():
    q, up, seen = "model.layers.11.self_attn.q_proj", "model.layers.2.mlp.up_proj", "visual.blocks.0.mlp.up_proj"

    def chosen(*targets, exclude=".*visual.*"):
        return [AdapterSpec(1, 1, targets, exclude).chooses(name) for name in (q, up, seen)]

    assert chosen("q_proj") == [True, False, False] and chosen("proj") == [False] * 3
    assert chosen("mlp.up_proj", exclude=None) == [False, True, True] and chosen("all-linear") == [True, True, False]
    assert chosen(r"model\.layers\.1\d\..*", exclude=None) == [True, False, False]
    assert chosen(r"model\.language_model\.layers\.2\..*") == [False, True, False]  # peft's spelling
    with pytest.raises(ValueError, match=r"qq_proj.*chooses no module.*q_proj"):
        lora.attach(load_pretrained(FOLDER / "checkpoint"), AdapterSpec(1, 1, ("qq_proj",)))


@pytest.mark.parametrize("targets", [ALL, (r".*layers\.1\..*_proj",)])
def test_a_saved_adapter_comes_back_to_the_bit_and_its_base_with_it(batches, tmp_path, targets):
    spec = AdapterSpec(3, 5.0, targets, ".*visual.*", str(FOLDER / "checkpoint"))
    model = with_adapters(spec)
    adapter_files.save(model, tmp_path, 0.1)
    back = load_pretrained(FOLDER / "checkpoint")
    lora.attach(back, adapter_files.read_spec(tmp_path))
    adapter_files.load_into(back, tmp_path)
    with paddle.no_grad():
        assert (back.token_logp(batches[0]).numpy() == model.token_logp(batches[0]).numpy()).all()
        lora.merge(model)
        whole = adapter_files.load_any(tmp_path)
        assert (whole.token_logp(batches[0]).numpy() == model.token_logp(batches[0]).numpy()).all()


def test_a_bfloat16_base_is_merged_in_float32_and_rounded_once(tmp_path):
    source = MODELS / "q25_tied_nested_bf16"
    exact = load_pretrained(source)
    lora.attach(exact, AdapterSpec(2, 3.0, ALL, ".*visual.*", str(source)), seed=4)
    for _, adapter in lora.adapters(exact):
        adapter.b.set_value(np.random.default_rng(1).normal(0, 0.05, adapter.b.shape).astype(np.float32))
    adapter_files.save(exact, tmp_path / "adapter")
    out = export(ExportConfig(adapter=str(tmp_path / "adapter"), out=str(tmp_path / "out")))
    lora.merge(exact)
    found = load_pretrained(out, dtype="auto")
    assert found.dtype == "bfloat16"
    for (name, ours), (_, theirs) in zip(found.named_parameters(), exact.named_parameters(), strict=True):
        want = theirs.astype("bfloat16").astype("float32").numpy()
        np.testing.assert_array_equal(ours.astype("float32").numpy(), want, err_msg=name)


def test_an_adapter_that_does_not_fit_is_one_message(tmp_path):
    adapter_files.save(with_adapters(AdapterSpec(3, 5.0, ("q_proj",))), tmp_path)
    other = load_pretrained(FOLDER / "checkpoint")
    lora.attach(other, AdapterSpec(2, 5.0, ("q_proj", "o_proj")))
    with pytest.raises(ValueError, match=r"missing: model\.layers\.0\.self_attn\.o_proj\.lora_A(.|\n)*other shape"):
        adapter_files.load_into(other, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    for name, value in (("use_dora", True), ("rank_pattern", {"q_proj": 4}), ("modules_to_save", ["lm_head"])):
        (tmp_path / "adapter_config.json").write_text(json.dumps({**config, name: value}))
        with pytest.raises(ValueError, match=name):
            adapter_files.read_spec(tmp_path)


@pytest.mark.oracle
@pytest.mark.skipif(not ORACLE.exists(), reason="needs .venv-oracle with torch, transformers and peft")
@pytest.mark.parametrize(
    ("name", "targets", "exclude"),
    [
        ("q25_untied_flat", ALL, ".*visual.*"),
        ("q2_tied_sharded", (r".*layers\.1\..*_proj",), None),
        ("q25_tied_nested_bf16", ("all-linear",), None),
    ],
)
def test_peft_loads_what_we_write_and_we_load_what_it_writes(tmp_path, name, targets, exclude):
    model = load_pretrained(MODELS / name)
    lora.attach(model, AdapterSpec(3, 5.0, targets, exclude, str(MODELS / name)), seed=2)
    rng = np.random.default_rng(5)
    for _, adapter in lora.adapters(model):
        adapter.b.set_value(rng.normal(0, 0.05, adapter.b.shape).astype(np.float32))
    adapter_files.save(model, tmp_path / "ours", 0.1)
    lora.merge(model)
    save_pretrained(model, tmp_path / "merged")
    folders = [str(MODELS / name), str(tmp_path / "ours"), str(tmp_path / "merged"), str(tmp_path / "theirs")]
    command = [str(ORACLE), str(Path(__file__).with_name("peft_logits.py")), *folders]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["complaints"] == [] and report["effect"] > 0.01, report
    assert report["difference"] < 1e-4 * report["size"], report
    theirs = load_pretrained(MODELS / name)
    adapter_files.merge_folder(theirs, tmp_path / "theirs")
    for (key, ours), (_, other) in zip(model.named_parameters(), theirs.named_parameters(), strict=True):
        np.testing.assert_array_equal(ours.numpy(), other.numpy(), err_msg=key)
