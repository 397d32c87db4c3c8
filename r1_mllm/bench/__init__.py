# SPDX-License-Identifier: Apache-2.0
"""`r1-mllm bench`: what the trainer's own pieces cost on this machine, beside the peer's figures in tests/bench."""
