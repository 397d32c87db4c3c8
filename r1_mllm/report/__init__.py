# SPDX-License-Identifier: Apache-2.0
"""One self-contained HTML page about a run: `page.write_report(run_dir)`."""
