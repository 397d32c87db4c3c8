# SPDX-License-Identifier: Apache-2.0
"""Rejection fine-tuning data: sample answers, score them, keep the good ones, and write them as conversations."""
