# SPDX-License-Identifier: Apache-2.0
"""Answer a data set with a model and grade the answers with the code that pays rewards in training."""
