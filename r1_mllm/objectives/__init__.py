# SPDX-License-Identifier: Apache-2.0
"""What turns rewards into gradients: advantages (numpy), policy losses and KL terms (tensors)."""
