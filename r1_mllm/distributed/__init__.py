# SPDX-License-Identifier: Apache-2.0
"""Several processes as one run: who is who (mesh) and the few exchanges data parallelism needs (collectives)."""
