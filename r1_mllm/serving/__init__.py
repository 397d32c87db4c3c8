# SPDX-License-Identifier: Apache-2.0
"""A model behind an OpenAI-compatible address, and one question at a time in a terminal."""
