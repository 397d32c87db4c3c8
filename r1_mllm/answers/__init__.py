# SPDX-License-Identifier: Apache-2.0
"""Text written by a model -> a value.

Every parser returns None for "no answer", raises nothing and takes time linear in the text.
"""
