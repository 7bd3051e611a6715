"""Runs a command with an Apache Kafka node beside it: `python -m deploy.kafka.run -- COMMAND`.

The command finds the node's address in `REVISIT_TEST_KAFKA`.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from deploy.kafka.apache_kafka import ApacheKafka, KafkaUnavailable


def main(arguments: list[str]) -> int:
    """Starts the node, runs the command, stops the node; gives the command's exit code."""
    command = arguments[1:] if arguments[:1] == ["--"] else arguments
    if not command:
        print("usage: python -m deploy.kafka.run -- COMMAND", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="revisit-kafka-") as folder:
        node = ApacheKafka(Path(folder))
        try:
            node.start()
        except KafkaUnavailable as error:
            print(f"make test-kafka cannot run: {error}", file=sys.stderr)
            return 1
        try:
            environment = os.environ | {"REVISIT_TEST_KAFKA": node.bootstrap_servers}
            return subprocess.run(command, env=environment, check=False).returncode
        finally:
            node.stop()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
