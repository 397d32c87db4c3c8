# SPDX-License-Identifier: Apache-2.0
"""Golden cases: folders of inputs and outputs computed by independent implementations.

`pytest tests/golden --golden-root DIR` runs every case directory found under DIR (layout of tests/golden/cases).
"""

from pathlib import Path

import pytest

KINDS = (
    *("config_layouts", "e2e", "grpo", "images", "models"),
    *("pathological", "rewards", "tokenizer", "train_steps", "video"),
)


def pytest_configure(config):
    """Refuse a folder without cases: skipping everything would look like success."""
    root = Path(config.getoption("--golden-root"))
    if not any(case_dirs(root, kind) for kind in KINDS):
        raise pytest.UsageError(f"--golden-root {root}: no golden cases there (KIND/case.json or KIND/NAME/case.json)")


def case_dirs(root: Path, kind: str) -> list[Path]:
    """Find the case folders of a kind: DIR/kind/case.json or DIR/kind/<name>/case.json."""
    top = root / kind
    if (top / "case.json").is_file():
        return [top]
    return sorted(path.parent for path in top.glob("*/case.json"))


def pytest_generate_tests(metafunc):
    """Give a test that takes `<kind>_case` one run per case folder of that kind (`models_case`, `grpo_case` ...)."""
    root = Path(metafunc.config.getoption("--golden-root"))
    for name in metafunc.fixturenames:
        if name.endswith("_case"):
            kind = name.removesuffix("_case")
            found = case_dirs(root, kind)
            metafunc.parametrize(name, found, ids=[f"{kind}-{path.name}" for path in found])
