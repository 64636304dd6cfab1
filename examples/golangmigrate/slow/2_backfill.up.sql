-- Stands for a backfill. The race harness shortens it by a setting in the DSN.
SELECT pg_sleep(coalesce(current_setting('example.seconds', true), '20')::float8);
