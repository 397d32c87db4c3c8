# SPDX-License-Identifier: Apache-2.0
"""From files to examples, and from finished groups to packed arrays."""
