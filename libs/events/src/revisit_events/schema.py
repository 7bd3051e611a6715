"""Tables of delivery in each service's database: outbox, inbox, dead letters, the relay's state.

`outbox` keeps what was published, in daily partitions of real time; `outbox_unsent` is the relay's
queue of positions in it. `inbox` is the service's event log, in monthly partitions of business time.
Partitions are made and dropped by functions of the owner: the service's users own nothing.
"""

from revisit_chassis.tenancy import Operations, Roles, protect
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
  headers json NOT NULL,
  data bytea,
  PRIMARY KEY (clinic_id, recorded_on, position)
) PARTITION BY RANGE (recorded_on);
COMMENT ON TABLE outbox IS 'Events as they are published; kept for replay and refill.';
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
  data json,
  PRIMARY KEY (clinic_id, source, event_id, time)
) PARTITION BY RANGE (time);
COMMENT ON TABLE inbox IS 'Events this service has applied: its event log.';
CREATE TABLE inbox_default PARTITION OF inbox DEFAULT;

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
  kafka_offset bigint NOT NULL,
  PRIMARY KEY (topic, partition)
);
COMMENT ON TABLE relay_position IS 'The last offset acknowledged in each partition of the present log.';
"""

_FUNCTIONS = """
CREATE FUNCTION ensure_outbox_partitions(days_ahead int) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE day date;
BEGIN
  FOR day IN SELECT (now() AT TIME ZONE 'UTC')::date + n FROM generate_series(0, days_ahead) AS n LOOP
    IF to_regclass('outbox_' || to_char(day, 'YYYYMMDD')) IS NULL
       AND NOT EXISTS (SELECT 1 FROM outbox_default WHERE recorded_on = day) THEN
      EXECUTE format('CREATE TABLE %I PARTITION OF outbox FOR VALUES FROM (%L) TO (%L)',
                     'outbox_' || to_char(day, 'YYYYMMDD'), day, day + 1);
    END IF;
  END LOOP;
END $$;

CREATE FUNCTION drop_outbox_partitions(keep_days int) RETURNS text[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE old record; dropped text[] := '{}';
BEGIN
  FOR old IN
    SELECT inhrelid::regclass::text AS name, to_date(right(inhrelid::regclass::text, 8), 'YYYYMMDD') AS day
    FROM pg_inherits WHERE inhparent = 'outbox'::regclass
      AND inhrelid::regclass::text ~ '^outbox_[0-9]{8}$'
  LOOP
    CONTINUE WHEN old.day >= (now() AT TIME ZONE 'UTC')::date - keep_days;
    -- A row of that day may be in the queue still, or again after a replay: then the day stays.
    CONTINUE WHEN EXISTS (SELECT 1 FROM outbox_unsent WHERE recorded_on = old.day);
    EXECUTE format('DROP TABLE %I', old.name);
    dropped := dropped || old.name;
  END LOOP;
  RETURN dropped;
END $$;

CREATE FUNCTION ensure_inbox_partition(month date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE name text := 'inbox_' || to_char(month, 'YYYYMM');
BEGIN
  IF to_regclass(name) IS NOT NULL THEN RETURN; END IF;
  -- Two consumers may want the same month at once.
  PERFORM pg_advisory_xact_lock(hashtext('ensure_inbox_partition'));
  IF to_regclass(name) IS NOT NULL THEN RETURN; END IF;
  EXECUTE format('CREATE TABLE %I PARTITION OF inbox FOR VALUES FROM (%L) TO (%L)', name,
                 month::timestamp AT TIME ZONE 'UTC', (month + interval '1 month') AT TIME ZONE 'UTC');
END $$;

CREATE FUNCTION drop_inbox_partitions(before date) RETURNS text[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE old record; dropped text[] := '{}';
BEGIN
  FOR old IN
    SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'inbox'::regclass
      AND inhrelid::regclass::text ~ '^inbox_[0-9]{6}$'
      AND to_date(right(inhrelid::regclass::text, 6), 'YYYYMM') + interval '1 month' <= before
  LOOP
    EXECUTE format('DROP TABLE %I', old.name);
    dropped := dropped || old.name;
  END LOOP;
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
    protect(op, "inbox", roles, privileges="SELECT, INSERT")
    protect(op, "dead_letter", roles, worker=True, privileges="SELECT, INSERT, UPDATE")
    for table in ("broker_state", "relay_position"):
        op.execute(f'GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO "{roles.worker}"')
    _grant_event_log(op, roles)
    _run(op, _FUNCTIONS, "$$;\n", keep="$$")
    for function in (
        "ensure_outbox_partitions(int)",
        "drop_outbox_partitions(int)",
        "ensure_inbox_partition(date)",
        "drop_inbox_partitions(date)",
    ):
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
        op.execute(f'GRANT EXECUTE ON FUNCTION {function} TO "{roles.app}", "{roles.worker}"')
    # The functions look into the queue and the default partitions for all clinics.
    for table in ("outbox_unsent", "outbox"):
        op.execute(
            f"CREATE POLICY {table}_owner ON {table} FOR SELECT TO CURRENT_USER USING (true)"
        )
    op.execute("SELECT ensure_outbox_partitions(7)")
    if with_intake:
        intake_tables.create(op, roles)


def _grant_event_log(op: Operations, roles: Roles) -> None:
    """Lets the worker list the clinics of the event log, for a rebuild."""
    op.execute(f'CREATE POLICY inbox_worker ON inbox FOR SELECT TO "{roles.worker}" USING (true)')


def _run(op: Operations, script: str, separator: str, keep: str = "") -> None:
    for statement in script.split(separator):
        if statement.strip():
            op.execute(statement + keep)
