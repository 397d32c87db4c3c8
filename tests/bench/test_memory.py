# SPDX-License-Identifier: Apache-2.0
import json
import os
import subprocess
import sys

import pytest

from r1_mllm import cli
from r1_mllm.runtime import MODEL, USAGE
from r1_mllm.training import sizing

SMALL = "--hidden_size 256 --layers 4 --vocab_size 8000 --tokens 16 --steps 2".split()


def measure(folder, processes, *words):
    """Run the command under the launcher; give its line."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PADDLE_")}
    launcher = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", str(processes)]
    out = folder / f"{processes}.json"
    inner = [sys.executable, "-m", "r1_mllm", "bench", "memory", "--json", str(out), *SMALL, *words]
    command = [*launcher, "--log_dir", str(folder / "log"), *inner]
    done = subprocess.run(command, env=variables | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(out.read_text())


@pytest.mark.slow
def test_state_is_shared_out_to_the_byte_and_the_peak_is_near_the_estimate(tmp_path):
    alone, both = measure(tmp_path, 1), measure(tmp_path, 2, "--sharding", "stage2")
    moments = 8 * alone["parameters"] / 1e6
    assert alone["moments_mb"] == [pytest.approx(moments, abs=0.1)]
    assert both["moments_mb"] == [pytest.approx(moments / 2, abs=0.1)] * 2
    assert both["degree"] == 2 and both["sharding"] == "stage2"
    for seen in (alone, both):
        assert seen["moments_estimated_mb"] == pytest.approx(max(seen["moments_mb"]), abs=0.1)
        # a network this small is dwarfed by the head's block of logits, which the estimate counts whole
        assert 0.25 < max(seen["peak_mb"]) / seen["peak_estimated_mb"] < 1.5


def test_tables_are_printed_for_published_networks_and_for_folders(capsys, request):
    folder = str(request.config.rootpath / "tests/golden/cases/e2e/checkpoint")
    cli.main(["bench", "sizing", "--arch", *sizing.PUBLISHED, folder, "--devices", "4", "--device_gb", "24", "--bf16"])
    told = capsys.readouterr().out
    assert told.count("4 devices of 24 GB, --bf16") == 3
    assert told.count("does not fit 24 GB") == 2 and told.count("  fits 24 GB") == 1


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--arch", "nowhere"), MODEL, "nowhere/config.json"),
        (("--sharding", "stage1", "--sharding_parallel_degree", "3"), MODEL, "does not divide the 8 processes"),
        (("--shrding", "stage1"), USAGE, "did you mean --sharding"),
    ],
)
def test_what_cannot_be_tabulated_is_named(words, code, told, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["bench", "sizing", *words])
    assert ended.value.code == code and told in capsys.readouterr().err
