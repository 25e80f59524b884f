"""Put what the bench gave into docs/reproduction.md.

    python benchmarks/reproduction.py RUNS [--page docs/reproduction.md] [--check]

The page has blocks between ``<!-- from FILE -->`` and ``<!-- end -->``; each is replaced by RUNS/FILE, which
a command named on the page has written, without its heading and without its last section, the command. With
``--check`` nothing is written, and the exit code is 1 where a block is not what RUNS has.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from scenelift.files import atomic_write

BLOCK = re.compile(r"(<!-- from (?P<file>[^\s>]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: str, runs: Path) -> str:
    """The page with every block taken from its file; a block whose file is not there stays as it is."""

    def replace(found: re.Match[str]) -> str:
        file = runs / found["file"]
        if not file.is_file():
            print(f"not there, left as it is: {file}", file=sys.stderr)
            return found[0]
        text = re.sub(r"^# .*\n+", "", file.read_text(encoding="utf-8"))  # the page has headings of its own,
        text = text.partition("## Make it again\n")[0]  # and commands, without paths of one machine
        text = re.sub(r"^(#+ )", r"##\1", text, flags=re.MULTILINE)
        return f"{found[1]}\n{text.strip()}\n\n{found[3]}"

    return BLOCK.sub(replace, page)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", metavar="RUNS", type=Path)
    parser.add_argument("--page", type=Path, default=Path("docs/reproduction.md"))
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args()
    page = asked.page.read_text(encoding="utf-8")
    now = filled(page, asked.runs)
    if asked.check:
        sys.exit(int(now != page))
    atomic_write(asked.page, now.encode())


if __name__ == "__main__":
    main()
