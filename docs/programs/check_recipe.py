"""Certify the book of recipes that the page makes, P2P only."""

import sys
from pathlib import Path

from fmmloopy.check import check_book

HERE = Path(__file__).parent


def main() -> int:
    report = check_book(str(HERE / "my_cpu_3.py"), operators=["p2p"])
    for finding in report.findings:
        print(finding)
    print(f"{report.book}: {'certified' if report.ok else 'NOT certified'} on {report.device}")
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
