# SPDX-License-Identifier: Apache-2.0
"""Sampling completions: each picture encoded once, each prompt read once, its keys and values shared by its rows."""
