CREATE TABLE visit (
  clinic_id uuid, visit_id uuid, patient_id uuid, completed_at timestamptz, body jsonb,
  PRIMARY KEY (clinic_id, visit_id)
);
CREATE TABLE event (clinic_id uuid, event_id text, PRIMARY KEY (clinic_id, event_id));
CREATE TABLE outbox (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, key text, event_id text, body jsonb);
CREATE TABLE inbox (clinic_id uuid, event_id text, PRIMARY KEY (clinic_id, event_id));
CREATE TABLE patient_fact (
  clinic_id uuid, patient_id uuid, visits int, last_at timestamptz, PRIMARY KEY (clinic_id, patient_id)
);
CREATE TABLE follow_up (
  clinic_id uuid, event_id text, patient_id uuid, due_at timestamptz, PRIMARY KEY (clinic_id, event_id)
);
