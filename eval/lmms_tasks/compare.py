# SPDX-License-Identifier: Apache-2.0
"""Say how many answers of a served model are, letter for letter, those of `r1-mllm eval` on the same rows."""

import argparse
import json
import sys
from pathlib import Path


def compare(results, samples):
    """(equal answers, equal verdicts, rows) of a results file and a samples file in the same order."""
    ours = json.loads(Path(results).read_text(encoding="utf-8"))["results"]
    lines = Path(samples).read_text(encoding="utf-8").splitlines()
    theirs = sorted(map(json.loads, lines), key=lambda row: row["doc_id"])
    if len(ours) != len(theirs):
        raise SystemExit(f"{results} has {len(ours)} rows, {samples} has {len(theirs)}")
    pairs = list(zip(ours, theirs, strict=True))
    # lmms-eval leaves "resps" out where taking the thinking away changes nothing.
    answers = sum(own["model_output"] == other.get("resps", other["filtered_resps"]) for own, other in pairs)
    verdicts = sum(float(own["correct"]) == other["acc"] for own, other in pairs)
    return answers, verdicts, len(pairs)


def main() -> None:
    """Parse the command line, print the counts; ends with 1 when anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("results", help="what r1-mllm eval wrote")
    parser.add_argument("samples", help="what lmms-eval wrote with --log_samples")
    given = parser.parse_args()
    answers, verdicts, rows = compare(given.results, given.samples)
    print(f"{answers} of {rows} answers and {verdicts} of {rows} verdicts are equal")
    sys.exit(answers < rows or verdicts < rows)


if __name__ == "__main__":
    main()
