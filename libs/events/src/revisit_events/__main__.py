"""`python -m revisit_events topics create`: the one-shot job that makes the topics of the catalogue."""

import argparse
import os
import sys

from revisit_events.commands import create_all_topics


def main() -> int:
    """Runs the command; gives its exit code."""
    parser = argparse.ArgumentParser(prog="python -m revisit_events")
    topics = parser.add_subparsers(dest="command", required=True).add_parser("topics")
    topics.add_argument("action", choices=["create"])
    parser.parse_args()
    create_all_topics(
        os.environ["KAFKA_BOOTSTRAP_SERVERS"],
        int(os.environ.get("KAFKA_TOPIC_PARTITIONS", "12")),
        int(os.environ.get("KAFKA_TOPIC_REPLICATION", "-1")),
        print,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
