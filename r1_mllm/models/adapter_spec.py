# SPDX-License-Identifier: Apache-2.0
"""Which modules get low-rank adapters.  No Paddle."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class AdapterSpec:
    """What adapters a network gets; the fields of peft's adapter_config.json that matter."""

    rank: int
    alpha: float
    targets: tuple[str, ...]
    """Names, all-linear, or one regular expression; see `chooses`."""
    exclude: str | None = None
    """Regular expression for whole names that are left out."""
    base: str = ""
    """Folder or hub id of the model the adapters belong to."""

    def chooses(self, module: str) -> bool:
        """Tell whether a published module gets an adapter, by peft's rules: a name matches the end of the module's."""
        spellings = module, live_name(module)
        if self.exclude and any(re.fullmatch(self.exclude, name) for name in spellings):
            return False
        if self.targets == ("all-linear",):
            return True
        if self.is_pattern:
            return any(re.fullmatch(self.targets[0], name) for name in spellings)
        return any(f".{name}".endswith(f".{target}") for name in spellings for target in self.targets)

    @property
    def is_pattern(self) -> bool:
        """Whether the targets are one regular expression."""
        return len(self.targets) == 1 and re.fullmatch(r"[\w.-]+", self.targets[0]) is None


def live_name(published: str) -> str:
    """Spell a published module name as transformers >= 4.52 and hence peft's files do."""
    prefix = "model." if published.startswith("visual.") else "model.language_model."
    return prefix + published.removeprefix("model.")
