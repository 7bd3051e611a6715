#!/bin/sh
# Runs once in an empty PostgreSQL volume: four databases, and for each an owner (migrations only), an
# unprivileged user and a worker user. Nobody reaches another service's database.
set -eu
for service in booking engagement feedback scoring; do
  prefix=$(echo "$service" | tr '[:lower:]' '[:upper:]')
  eval "app=\${${prefix}_PASSWORD} worker=\${${prefix}_WORKER_PASSWORD} owner=\${${prefix}_OWNER_PASSWORD}"
  psql --username "$POSTGRES_USER" --dbname postgres --set ON_ERROR_STOP=1 \
    --set service="$service" --set app="$app" --set worker="$worker" --set owner="$owner" <<'SQL'
CREATE ROLE :"service" LOGIN NOBYPASSRLS PASSWORD :'app';
SELECT :'service' || '_worker' AS worker_role, :'service' || '_owner' AS owner_role \gset
CREATE ROLE :"worker_role" LOGIN NOBYPASSRLS PASSWORD :'worker';
CREATE ROLE :"owner_role" LOGIN NOBYPASSRLS PASSWORD :'owner';
CREATE DATABASE :"service" OWNER :"owner_role";
REVOKE ALL ON DATABASE :"service" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"service" TO :"service", :"worker_role", :"owner_role";
SQL
done
