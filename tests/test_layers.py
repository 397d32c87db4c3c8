# SPDX-License-Identifier: Apache-2.0
"""The import layers of tests/layers.txt, lowest first: a module imports its own line and the lines above it."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = [line.split() for line in (Path(__file__).parent / "layers.txt").read_text().splitlines()]
PADDLE_FREE = 4
"""So many of the lowest lines never import Paddle."""


@cache
def modules():
    """Every module of the package: dotted name -> syntax tree."""
    found = {}
    for path in sorted((ROOT / "r1_mllm").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def layer(module):
    """Index of the line with the longest name that covers the module."""
    names = [(len(name), i) for i, line in enumerate(LAYERS) for name in line if f"{module}.".startswith(f"{name}.")]
    return max(names)[1]


def inside(module, nodes):
    """Modules of the package that these statements of a module import."""
    package = module if (ROOT / Path(*module.split("."), "__init__.py")).is_file() else module.rpartition(".")[0]
    found = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.level:
            parts = package.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1] + ([node.module] if node.module else []))
            found |= {full if (full := f"{base}.{name.name}") in modules() else base for name in node.names}
    return found - {module, "r1_mllm"}


def outside(module):
    """Packages other than this one that are loaded before the module is."""
    names = [name.name for node in modules()[module].body if isinstance(node, ast.Import) for name in node.names]
    froms = [node for node in modules()[module].body if isinstance(node, ast.ImportFrom) and not node.level]
    return {name.split(".")[0] for name in names + [node.module for node in froms]}


def test_modules_import_downwards_only():
    wrong = [
        f"{module} -> {target}"
        for module, tree in modules().items()
        for target in inside(module, ast.walk(tree))
        if layer(target) > layer(module)
    ]
    assert not wrong


def test_the_lower_layers_never_import_paddle():
    wrong = [module for module in modules() if layer(module) < PADDLE_FREE and "paddle" in outside(module)]
    assert not wrong


def test_imports_inside_the_package_are_relative():
    wrong = [
        module
        for module, tree in modules().items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.ImportFrom) and not node.level and node.module.split(".")[0] == "r1_mllm")
        or (isinstance(node, ast.Import) and any(name.name.split(".")[0] == "r1_mllm" for name in node.names))
    ]
    assert not wrong


def test_no_modules_import_each_other_in_a_circle():
    graph = {module: inside(module, tree.body) for module, tree in modules().items()}
    while leaves := [module for module, targets in graph.items() if not targets]:
        for leaf in leaves:
            del graph[leaf]
        for targets in graph.values():
            targets -= set(leaves)
    assert not graph


@pytest.mark.parametrize(
    "module",
    ["r1_mllm.cli", "r1_mllm.config.flags", "r1_mllm.rewards", "r1_mllm.evaluation.scoring", "r1_mllm.data.mixture"],
)
def test_what_needs_no_model_loads_without_paddle(module):
    code = f"import sys, {module}; sys.exit('paddle' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_the_repository_root_is_no_package_so_that_it_can_be_dropped_into_paddlemix():
    assert not (ROOT / "__init__.py").exists()
