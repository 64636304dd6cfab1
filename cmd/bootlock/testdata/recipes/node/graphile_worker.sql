-- What graphile-worker 0.16 runs first, without a lock, in each process that starts.
CREATE SCHEMA IF NOT EXISTS graphile_worker;
CREATE TABLE IF NOT EXISTS graphile_worker.migrations (id int PRIMARY KEY, ts timestamptz DEFAULT now() NOT NULL);
ALTER TABLE graphile_worker.migrations ADD COLUMN IF NOT EXISTS breaking boolean NOT NULL DEFAULT false;
