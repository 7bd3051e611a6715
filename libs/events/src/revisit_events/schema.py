"""Tables of delivery in each service's database: outbox, inbox, dead letters, the relay's state.

`outbox` keeps what was published, in daily partitions of real time; `outbox_unsent` is the relay's
queue of positions in it. `inbox` is the service's event log, in monthly partitions of business time,
kept by the day on which a row was recorded: a history that was imported yesterday is a day old.
Partitions are made and dropped by functions of the owner (the service's users own nothing), all of
them under one advisory lock: two workers at midnight, or a consumer and the upkeep, take turns.
"""

from revisit_chassis.tenancy import Operations, Roles, list_clinics, protect
from revisit_events import intake_tables

_TABLES = """
CREATE TABLE outbox (
  clinic_id uuid NOT NULL,
  recorded_on date NOT NULL DEFAULT (now() AT TIME ZONE 'UTC')::date,
  position bigint GENERATED ALWAYS AS IDENTITY,
  recorded_at timestamptz NOT NULL DEFAULT now(),
  topic text NOT NULL,
  key text NOT NULL,
  event_id text NOT NULL,
  headers text NOT NULL,
  data bytea,
  PRIMARY KEY (clinic_id, recorded_on, position)
) PARTITION BY RANGE (recorded_on);
COMMENT ON TABLE outbox IS 'Events as they are published; kept for replay and refill.';
COMMENT ON COLUMN outbox.headers IS 'JSON; of an event without what follows from the other columns.';
CREATE TABLE outbox_default PARTITION OF outbox DEFAULT;
CREATE TYPE outbox_message AS (
  clinic_id uuid, topic text, key text, event_id text, headers text, data bytea
);
COMMENT ON TYPE outbox_message IS 'What publishing takes; a column more is a new type.';

CREATE TABLE outbox_unsent (
  clinic_id uuid NOT NULL,
  recorded_on date NOT NULL,
  position bigint NOT NULL,
  slot smallint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
CREATE UNIQUE INDEX outbox_unsent_position_idx ON outbox_unsent (position);
COMMENT ON TABLE outbox_unsent IS 'Positions that the relay has still to send.';

CREATE TABLE outbox_unsendable (
  clinic_id uuid NOT NULL,
  recorded_on date NOT NULL,
  position bigint NOT NULL,
  reason text NOT NULL,
  put_aside_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (clinic_id, position)
);
COMMENT ON TABLE outbox_unsendable IS 'Positions that the broker will never take; somebody decides.';

CREATE TABLE outbox_refill (recorded_on date PRIMARY KEY);
COMMENT ON TABLE outbox_refill IS 'Days that a log which was lost has still to get again, oldest first.';

CREATE TABLE inbox (
  clinic_id uuid NOT NULL,
  source text NOT NULL,
  event_id text NOT NULL,
  time timestamptz NOT NULL,
  type text NOT NULL,
  subject text NOT NULL,
  sequence numeric(20),
  correlation_id text,
  causation_id text,
  traceparent text,
  recorded_on date NOT NULL DEFAULT (now() AT TIME ZONE 'UTC')::date,
  data text,
  PRIMARY KEY (clinic_id, source, event_id, time)
) PARTITION BY RANGE (time);
COMMENT ON TABLE inbox IS 'Events this service has applied: its event log.';
CREATE TABLE inbox_default PARTITION OF inbox DEFAULT;
CREATE TYPE inbox_event AS (
  clinic_id uuid, source text, event_id text, time timestamptz, type text, subject text,
  sequence text, correlation_id text, causation_id text, traceparent text, data text
);
COMMENT ON TYPE inbox_event IS 'What claiming takes; a column more is a new type.';

CREATE TABLE dead_letter (
  clinic_id uuid NOT NULL,
  dead_letter_id uuid NOT NULL,
  topic text NOT NULL,
  partition int NOT NULL,
  kafka_offset bigint NOT NULL,
  key bytea,
  value bytea,
  headers json NOT NULL,
  reason text NOT NULL,
  error text NOT NULL,
  attempts int NOT NULL,
  recorded_at timestamptz NOT NULL DEFAULT now(),
  state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'replayed', 'discarded')),
  closed_at timestamptz,
  PRIMARY KEY (clinic_id, dead_letter_id)
);
CREATE INDEX dead_letter_open_idx ON dead_letter (recorded_at, dead_letter_id) WHERE state = 'open';
COMMENT ON TABLE dead_letter IS 'Messages that could not be handled, kept until somebody decides.';

CREATE TABLE broker_state (
  only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
  cluster_id text NOT NULL,
  noticed_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE broker_state IS 'The log that the relay fills; another one is refilled.';

CREATE TABLE relay_position (
  topic text NOT NULL,
  partition int NOT NULL,
  lane int NOT NULL,
  kafka_offset bigint NOT NULL,
  PRIMARY KEY (topic, partition, lane)
);
COMMENT ON TABLE relay_position IS 'The last offset each lane had acknowledged in the present log.';

CREATE TABLE feed_mark (
  topic text NOT NULL,
  partition int NOT NULL,
  cluster_id text NOT NULL,
  fresh_at timestamptz,
  PRIMARY KEY (topic, partition)
);
COMMENT ON TABLE feed_mark IS 'Which log a partition was last read from, and until when it is applied.';

CREATE TABLE consumer_attempt (
  topic text NOT NULL,
  partition int NOT NULL,
  kafka_offset bigint NOT NULL,
  together int NOT NULL,
  alone int NOT NULL,
  PRIMARY KEY (topic, partition)
);
COMMENT ON TABLE consumer_attempt IS 'How often a process began at an offset and did not get past it.';
"""

_FUNCTIONS = """
CREATE FUNCTION add_partition(parent text, name text, range_from text, range_to text) RETURNS void
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE pivot text := CASE parent WHEN 'outbox' THEN 'recorded_on' ELSE 'time' END;
BEGIN
  IF to_regclass(name) IS NOT NULL THEN RETURN; END IF;
  PERFORM pg_advisory_xact_lock(hashtextextended('revisit partitions', 0));
  -- What another session made while this one waited: to_regclass would remember that there was nothing.
  IF EXISTS (SELECT FROM pg_class WHERE relname = name AND relnamespace = 'public'::regnamespace) THEN
    RETURN;
  END IF;
  EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES)',
                 name, parent);
  -- Rows that came while there was no such partition are in the default one, which may then keep none.
  EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', parent || '_default');
  EXECUTE format('WITH moved AS (DELETE FROM %I WHERE %I >= %L AND %I < %L RETURNING *) '
                 'INSERT INTO %I SELECT * FROM moved',
                 parent || '_default', pivot, range_from, pivot, range_to, name);
  EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                 parent, name, range_from, range_to);
END $$;

CREATE FUNCTION ensure_outbox_partitions(days_ahead int) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '5s' AS $$
DECLARE day date;
BEGIN
  -- First of all: whoever waits for it must not hold a lock on the default partition already.
  PERFORM pg_advisory_xact_lock(hashtextextended('revisit partitions', 0));
  FOR day IN
    SELECT (now() AT TIME ZONE 'UTC')::date + n FROM generate_series(0, days_ahead) AS n
    UNION SELECT recorded_on FROM outbox_default
    ORDER BY 1
  LOOP
    PERFORM add_partition('outbox', 'outbox_' || to_char(day, 'YYYYMMDD'), day::text, (day + 1)::text);
  END LOOP;
END $$;

CREATE FUNCTION drop_outbox_partitions(keep_days int) RETURNS text[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '5s' AS $$
DECLARE old record; dropped text[] := '{}';
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended('revisit partitions', 0));
  FOR old IN
    SELECT inhrelid::regclass::text AS name, to_date(right(inhrelid::regclass::text, 8), 'YYYYMMDD') AS day
    FROM pg_inherits WHERE inhparent = 'outbox'::regclass
      AND inhrelid::regclass::text ~ '^outbox_[0-9]{8}$'
      AND to_date(right(inhrelid::regclass::text, 8), 'YYYYMMDD')
          < (now() AT TIME ZONE 'UTC')::date - keep_days
  LOOP
    CONTINUE WHEN outbox_day_is_needed(old.day);
    -- Asked again under the table's lock: a replay may have queued rows while that was waited for.
    LOCK TABLE ONLY outbox IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', old.name);
    CONTINUE WHEN outbox_day_is_needed(old.day);
    EXECUTE format('DROP TABLE %I', old.name);
    dropped := dropped || old.name;
  END LOOP;
  RETURN dropped;
END $$;

CREATE FUNCTION outbox_day_is_needed(day date) RETURNS boolean
LANGUAGE sql VOLATILE SET search_path = public, pg_temp AS $$
  SELECT EXISTS (SELECT 1 FROM outbox_unsent WHERE recorded_on = day)
      OR EXISTS (SELECT 1 FROM outbox_unsendable WHERE recorded_on = day)
      OR EXISTS (SELECT 1 FROM outbox_refill WHERE recorded_on = day)
$$;

CREATE FUNCTION mark_outbox_refill() RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
  INSERT INTO outbox_refill (recorded_on)
  SELECT day FROM (
    SELECT to_date(right(inhrelid::regclass::text, 8), 'YYYYMMDD') AS day
    FROM pg_inherits WHERE inhparent = 'outbox'::regclass
      AND inhrelid::regclass::text ~ '^outbox_[0-9]{8}$'
    UNION SELECT recorded_on FROM outbox_default
  ) AS kept
  WHERE day <= (now() AT TIME ZONE 'UTC')::date
  ON CONFLICT DO NOTHING
$$;

CREATE FUNCTION ensure_inbox_partition(month date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '5s' AS $$
BEGIN
  PERFORM add_partition('inbox', 'inbox_' || to_char(month, 'YYYYMM'),
                        (month::timestamp AT TIME ZONE 'UTC')::text,
                        ((month + interval '1 month') AT TIME ZONE 'UTC')::text);
END $$;

CREATE FUNCTION drop_inbox_partitions(before date) RETURNS text[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '5s' AS $$
DECLARE old text; is_needed boolean; dropped text[] := '{}';
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended('revisit partitions', 0));
  FOR old IN
    SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'inbox'::regclass
      AND inhrelid::regclass::text ~ '^inbox_[0-9]{6}$'
  LOOP
    EXECUTE format('SELECT EXISTS (SELECT 1 FROM %I WHERE recorded_on >= %L)', old, before) INTO is_needed;
    CONTINUE WHEN is_needed;
    -- An empty month is one that was just made.
    EXECUTE format('SELECT NOT EXISTS (SELECT 1 FROM %I)', old) INTO is_needed;
    CONTINUE WHEN is_needed;
    LOCK TABLE ONLY inbox IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', old);
    EXECUTE format('SELECT EXISTS (SELECT 1 FROM %I WHERE recorded_on >= %L)', old, before) INTO is_needed;
    CONTINUE WHEN is_needed;
    EXECUTE format('DROP TABLE %I', old);
    dropped := dropped || old;
  END LOOP;
  DELETE FROM inbox_default WHERE recorded_on < before;
  RETURN dropped;
END $$;
"""


def create(op: Operations, roles: Roles, *, with_intake: bool = False) -> None:
    """Makes the tables; part of a service's first migration.

    Args:
        op: Of the migration.
        roles: The service's users.
        with_intake: Whether the service takes events in over HTTP.
    """
    _run(op, _TABLES, ";\n")
    protect(op, "outbox", roles, worker=True, privileges="SELECT, INSERT")
    protect(op, "outbox_unsent", roles, worker=True)
    protect(op, "outbox_unsendable", roles, worker=True)
    protect(op, "inbox", roles, privileges="SELECT, INSERT")
    protect(op, "dead_letter", roles, worker=True)
    for table in ("broker_state", "relay_position", "outbox_refill"):
        op.execute(f'GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO "{roles.worker}"')
    # The state of the consumer group: no row speaks of a clinic.
    for table in ("feed_mark", "consumer_attempt"):
        op.execute(
            f'GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO "{roles.app}", "{roles.worker}"'
        )
    _grant_event_log(op, roles)
    _run(op, _FUNCTIONS, "$$;\n", keep="$$")
    for function in (
        "ensure_outbox_partitions(int)",
        "drop_outbox_partitions(int)",
        "ensure_inbox_partition(date)",
        "drop_inbox_partitions(date)",
        "mark_outbox_refill()",
    ):
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
        op.execute(f'GRANT EXECUTE ON FUNCTION {function} TO "{roles.app}", "{roles.worker}"')
    # The functions look into the queue and the default partitions for all clinics.
    for table in ("outbox_unsent", "outbox_unsendable", "outbox"):
        op.execute(
            f"CREATE POLICY {table}_owner ON {table} FOR SELECT TO CURRENT_USER USING (true)"
        )
    for function in ("add_partition(text, text, text, text)", "outbox_day_is_needed(date)"):
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
    op.execute("SELECT ensure_outbox_partitions(7)")
    if with_intake:
        intake_tables.create(op, roles)


def _grant_event_log(op: Operations, roles: Roles) -> None:
    """Lets the worker list the clinics of the event log, for a rebuild; it reads those that it names."""
    list_clinics(op, "inbox", roles)


def _run(op: Operations, script: str, separator: str, keep: str = "") -> None:
    for statement in script.split(separator):
        if statement.strip():
            op.execute(statement + keep)
