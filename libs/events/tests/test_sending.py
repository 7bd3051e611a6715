"""Where a key goes: the same place as with any other Kafka client."""

import pytest
from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given
from hypothesis import strategies as st

from revisit_events.sending import Sent, declared, partition_of

pytestmark = pytest.mark.pure


@given(st.binary(max_size=64), st.integers(1, 12))
def test_key_goes_where_the_client_would_send_it(key: bytes, partitions: int) -> None:
    numbers = list(range(partitions))
    assert partition_of(key, numbers) == DefaultPartitioner()(key, numbers, numbers)


@pytest.mark.parametrize(
    ("key", "murmur2"), [(b"21", -973932308), (b"foobar", -790332482), (b"abc", 479470107)]
)
def test_key_goes_where_the_java_client_would_send_it(key: bytes, murmur2: int) -> None:
    # The vectors of org.apache.kafka.common.utils.UtilsTest.
    assert partition_of(key, list(range(7))) == (murmur2 & 0x7FFFFFFF) % 7


def test_partition_that_a_topic_got_later_is_left_empty() -> None:
    assert declared({3, 0, 2, 1}, 1) == [0]
    assert declared({5, 0, 2, 1, 4, 3}, 3) == [0, 1, 2]


def test_offsets_are_noted_from_the_first_to_the_last_record_of_each_partition() -> None:
    sent = Sent()
    sent.acknowledge("visit.completed", 0, 10, 5)
    sent.acknowledge("visit.completed", 1, 3, 1)
    sent.acknowledge("visit.completed", 0, 15, 2)
    # A repeat that the broker has already is acknowledged without an offset.
    sent.acknowledge("visit.completed", 1, -1, 4)
    assert sent.first == {("visit.completed", 0): 10, ("visit.completed", 1): 3}
    assert sent.last == {("visit.completed", 0): 16, ("visit.completed", 1): 3}
    assert sent.topics == {"visit.completed": 12}
