"""Topics, created from the catalogue and checked against it; never made by a producer."""

from collections.abc import Iterable

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import TopicAlreadyExistsError, for_code

from revisit_events.catalog import SERVICES, TOPICS

BROKER_DEFAULT = -1


_POLICY = "cleanup.policy"
_COMPACT = "compact"


class WrongTopic(RuntimeError):
    """A topic that exists would do harm.

    It has another number of partitions than configured, so that keys would be reordered; or it is compacted
    and must not be, so that events would vanish, or the other way round, so that contacts would.
    """


def dead_letter_topic(group: str) -> str:
    """Gives the topic of a group's dead letters.

    >>> dead_letter_topic("scoring")
    'scoring.dead-letters'
    """
    return f"{group}.dead-letters"


def all_topics() -> tuple[str, ...]:
    """Gives every topic of the platform."""
    return (*TOPICS, *(dead_letter_topic(service) for service in SERVICES))


async def create_topics(
    bootstrap_servers: str,
    partitions: int,
    names: Iterable[str] | None = None,
    *,
    replication: int = BROKER_DEFAULT,
) -> list[str]:
    """Creates the topics that are missing; gives their names.

    Args:
        bootstrap_servers: Of the broker.
        partitions: Of each topic. It cannot be changed later without reordering keys.
        names: Topics; all of the catalogue when left out.
        replication: Copies of each topic; the broker's `default.replication.factor` when left out.

    Raises:
        WrongTopic: One exists with another number of partitions or another policy.
    """
    wanted = tuple(all_topics() if names is None else names)
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    try:
        await admin.start()
        present = set(await admin.list_topics())
        missing = [name for name in wanted if name not in present]
        if missing:
            answer = await admin.create_topics(
                [_new_topic(name, partitions, replication) for name in missing]
            )
            for topic, code, *_ in answer.topic_errors:
                if code not in {0, TopicAlreadyExistsError.errno}:
                    raise for_code(code)(topic)
        _check_partitions(await admin.describe_topics(list(wanted)), partitions)
        await _check_policies(admin, wanted)
        return missing
    finally:
        await admin.close()


def _new_topic(name: str, partitions: int, replication: int) -> NewTopic:
    topic = NewTopic(
        name=name,
        num_partitions=partitions,
        replication_factor=1,
        topic_configs={_POLICY: _COMPACT} if _is_compacted(name) else {},
    )
    # The client's check knows nothing of the protocol's "the broker's default".
    topic.replication_factor = replication
    return topic


def _is_compacted(name: str) -> bool:
    contract = TOPICS.get(name)
    return contract is not None and contract.COMPACTED


def _check_partitions(described: list[dict[str, object]], partitions: int) -> None:
    for topic in described:
        found = topic["partitions"]
        count = len(found) if isinstance(found, list) else 0
        if count and count != partitions:
            raise WrongTopic(
                f"topic {topic['topic']} has {count} partitions, KAFKA_TOPIC_PARTITIONS says "
                f"{partitions}"
            )


async def _check_policies(admin: AIOKafkaAdminClient, names: Iterable[str]) -> None:
    asked = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    for answer in await admin.describe_configs(asked):
        for code, _, _, topic, entries in answer.resources:
            if code:
                continue  # we may not look: whoever guards the broker answers for it
            # A broker may leave out what is by default.
            policy = next((value for name, value, *_ in entries if name == _POLICY), "delete")
            if (_COMPACT in policy) != _is_compacted(topic):
                wanted = _COMPACT if _is_compacted(topic) else "delete"
                raise WrongTopic(f"topic {topic} has {_POLICY} {policy} and must have {wanted}")
