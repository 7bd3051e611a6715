"""Bare relay: read in order, send the batch, delete after the acknowledgements.

`python -m bench.bare.relay URL BOOTSTRAP TOPIC`
"""

import asyncio
import sys

import asyncpg
import uvloop
from aiokafka import AIOKafkaProducer

from revisit_chassis.process import settle_memory

READ = "SELECT id, key, event_id, body FROM outbox ORDER BY id LIMIT 500 FOR UPDATE SKIP LOCKED"


async def main(url: str, bootstrap: str, topic: str) -> None:
    """Relays until the process ends."""
    settle_memory()
    connection = await asyncpg.connect(url)
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all")
    await producer.start()
    while True:
        async with connection.transaction():
            rows = await connection.fetch(READ)
            if rows:
                sent = [
                    await producer.send(
                        topic,
                        row["body"].encode(),
                        key=row["key"].encode(),
                        headers=[("id", row["event_id"].encode())],
                    )
                    for row in rows
                ]
                await asyncio.gather(*sent)
                await connection.execute(
                    "DELETE FROM outbox WHERE id = ANY($1)", [row["id"] for row in rows]
                )
        if not rows:
            await asyncio.sleep(0.005)


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
