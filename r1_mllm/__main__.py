# SPDX-License-Identifier: Apache-2.0
"""`python -m r1_mllm` is `r1-mllm`."""

from .cli import main

if __name__ == "__main__":
    main()
