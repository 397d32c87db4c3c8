# SPDX-License-Identifier: Apache-2.0
"""The model the policy must stay near, and how it follows the policy when asked to.

`--sync_ref_model True` mixes the policy into it as TRL does (TR-DPO's soft update, arXiv:2404.09656): after every
ref_model_sync_steps-th optimizer step  reference = alpha * policy + (1 - alpha) * reference.  The reference is then
part of a checkpoint, as a model folder of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import paddle

from ..config import GrpoConfig
from ..models import lora
from ..models.qwen_vl import QwenVL
from ..models.weights import save_pretrained
from ..runtime import MODEL, USAGE, Stop
from .policy_model import copied_policy, load_model, load_start
from .sharded import flat_part

FOLDER = Path("state") / "reference"
"""Where it stands in a checkpoint."""
BLOCK = 1 << 22
"""Numbers mixed at a time: what is needed beside the weights, four bytes each."""


def open_reference(source: Path, config: GrpoConfig, policy: QwenVL, resumed: Path | None = None) -> QwenVL | None:
    """Give the model the policy must stay near: None when beta is 0, with adapters the policy without them.

    The latter holds no weights of its own: it looks at the policy's, which adapters leave as they are.

    Args:
        source: the model folder the run starts from.
        resumed: the checkpoint to continue from.
    """
    if not config.objective.beta:
        return None
    if config.lora.use_peft:
        return lora.without_adapters(policy)
    reference = _moved(resumed / FOLDER, config) if resumed and (resumed / FOLDER).is_dir() else None
    reference = reference or load_start(source, config)
    reference.eval()
    for parameter in reference.parameters():
        parameter.stop_gradient = True
    return reference


def _moved(folder: Path, config: GrpoConfig) -> QwenVL:
    """Load the reference of a checkpoint; a run that would not save it again is refused."""
    if not config.objective.sync_ref_model:
        how = "resume with --sync_ref_model True, or start a new run with --model_name_or_path CHECKPOINT"
        raise Stop(f"{folder}: this run's reference model has moved, and --sync_ref_model is off; {how}", USAGE)
    if not (folder / "config.json").is_file():
        raise Stop(f"{folder} is not a model folder; resume from an earlier checkpoint", MODEL)
    return load_model(folder, config)


def sync(reference: QwenVL | None, policy: QwenVL, config: GrpoConfig, step: int) -> bool:
    """Mix the policy into the reference when `step`, optimizer steps taken, makes it time; say whether it did."""
    objective = config.objective
    if reference is None or not objective.sync_ref_model or step % objective.ref_model_sync_steps:
        return False
    mix(reference, policy, objective.ref_model_mixup_alpha)
    return True


@paddle.no_grad()
def mix(reference: QwenVL, policy: QwenVL, alpha: float) -> None:
    """Move the reference's weights to alpha * policy + (1 - alpha) * reference, in place; what is frozen stays.

    Computed in float32 and kept in the weights' dtype: in two-byte dtypes a small alpha changes fewer weights than it
    says.
    """
    own = dict(reference.named_parameters())
    for name, weight in policy.named_parameters():
        if weight.stop_gradient:
            continue
        for start in range(0, weight.size, BLOCK):
            stop = min(start + BLOCK, weight.size)
            there, new = (flat_part(tensor, start, stop) for tensor in (own[name], weight))
            mixed = alpha * new.astype("float32") + (1.0 - alpha) * there.astype("float32")
            paddle.assign(mixed.astype(there.dtype), there)


def added_to(
    write: Callable[[Path], None], reference: QwenVL | None, config: GrpoConfig, copied: bool = False
) -> Callable[[Path], None]:
    """Add the reference to what writes a checkpoint's weights, where it is part of one.

    Args:
        copied: copy it to host memory now, for a save that goes on while the run does.
    """
    if not num_bytes(reference, config):
        return write
    save = copied_policy(reference) if copied else lambda folder: save_pretrained(reference, folder)

    def both(folder: Path) -> None:
        write(folder)
        save(folder / FOLDER)

    return both


def num_bytes(reference: QwenVL | None, config: GrpoConfig) -> int:
    """What the reference adds to a checkpoint: nothing unless it moves and the run can be resumed."""
    if reference is None or not config.objective.sync_ref_model or config.training.save_only_model:
        return 0
    return sum(weight.size * weight.element_size() for weight in reference.parameters())
