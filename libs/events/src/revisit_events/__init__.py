"""Event contracts and their delivery, from the door to the effect.

- What an event is: `contracts`, `catalog`, `envelope` (with the order in which events stand), `digest`.
- How it comes in: `http` (three modes) gives raw events, `reception` makes events of them, `faults` words
  what is wrong with one, `refusal` is what its sender is told, `rejected` keeps it; `intake` stores,
  `group_commit` lets requests share a transaction, `intake_routes` and `intake_tables` are its edges.
- How it goes out: `outbox`, `relay`, `unsendable`, `replay`, `topics`, `broker` (which log is it?).
- How it arrives: `kafka` reads a record, `consumer` applies it, `inbox` claims it, `feed` and `attempts`
  remember how far a group is, `dlq` keeps what cannot be handled, `rebuild` makes projections again.
- What all share: `worker`, `commands`, `service_main`, `retry`, `deadlines`, `metrics`, `schema`.
- What is made of the contracts: `asyncapi`, `generate`; for tests: `testing`.
"""
