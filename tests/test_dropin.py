# SPDX-License-Identifier: Apache-2.0
"""A copy of the checkout at paddlemix/examples/r1_mllm of an empty tree, as people who use PaddleMIX put it there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("r1_mllm", "scripts", "eval", "configs", "pyproject.toml", "setup.py", "README.md")
PLACE = Path("paddlemix") / "examples" / "r1_mllm"


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """The root of the tree; paddlemix has an __init__.py, examples has none, as there."""
    root = tmp_path_factory.mktemp("PaddleMIX")
    (root / PLACE).mkdir(parents=True)
    (root / "paddlemix" / "__init__.py").touch()
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, root / PLACE / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (ROOT / name).is_file():
            shutil.copy(ROOT / name, root / PLACE / name)
    return root


def run(tree, *words):
    """Run from the tree's root, with this Python first on the path and nothing else of ours in the environment."""
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    environment = {"PATH": path, "HOME": str(tree), "LANG": "C.UTF-8"}
    return subprocess.run(list(map(str, words)), cwd=tree, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_the_training_script_runs_from_the_trees_root(tree, shell):
    done = run(tree, shell, PLACE / "scripts" / "run_grpo_rec.sh", "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: r1-mllm grpo") and "--num_generations" in done.stdout


@pytest.mark.parametrize("script", ["test_rec.py", "test_r1-v.py"])
def test_the_evaluation_scripts_run_from_the_trees_root(tree, script):
    done = run(tree, sys.executable, PLACE / "eval" / script, "--help")
    assert done.returncode == 0 and "--test_datasets" in done.stdout, done.stderr


def test_the_evaluation_script_of_the_copy_uses_the_copys_package(tree):
    code = (
        f"import runpy, sys; sys.argv = ['x', '--help']; sys.path[0] = ''\n"
        f"try: runpy.run_path({str(PLACE / 'eval' / 'test_rec.py')!r}, run_name='__main__')\n"
        "except SystemExit: import r1_mllm; print(r1_mllm.__file__)"
    )
    done = run(tree, sys.executable, "-c", code)
    assert done.stdout.splitlines()[-1] == str(tree / PLACE / "r1_mllm" / "__init__.py"), done.stderr


def test_the_package_is_importable_under_its_name_in_the_tree(tree):
    code = (
        "import paddlemix.examples.r1_mllm.r1_mllm as package, sys\n"
        "from paddlemix.examples.r1_mllm.r1_mllm import cli, config\n"
        "from paddlemix.examples.r1_mllm.r1_mllm.evaluation import scoring\n"
        "from paddlemix.examples.r1_mllm.r1_mllm.tasks import get_task\n"
        "print(package.__file__, get_task('rec').name, 'r1_mllm' in sys.modules, 'paddle' in sys.modules)"
    )
    done = run(tree, sys.executable, "-c", code)
    assert done.stdout.split() == [str(tree / PLACE / "r1_mllm" / "__init__.py"), "rec", "False", "False"], done.stderr


@pytest.mark.slow
def test_every_module_is_importable_under_its_name_in_the_tree(tree):
    names = [
        ".".join(path.relative_to(tree).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted((tree / PLACE / "r1_mllm").rglob("*.py"))
        if path.name not in ("__main__.py", "worker.py", "template_worker.py")
    ]
    code = (
        "import importlib, sys\n"
        "from paddlemix.examples.r1_mllm.r1_mllm import runtime; runtime.prepare()\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "print('r1_mllm' in sys.modules)"
    )
    done = run(tree, sys.executable, "-c", code)
    assert done.returncode == 0 and done.stdout.split()[-1] == "False", done.stderr


def test_nothing_in_the_checkout_hides_the_package(tree):
    assert not (ROOT / "__init__.py").exists() and not os.path.exists(ROOT / "r1_mllm.py")
