# SPDX-License-Identifier: Apache-2.0
"""The networks: what config.json says (config), their parameters on disk (weights), and the layers themselves."""
