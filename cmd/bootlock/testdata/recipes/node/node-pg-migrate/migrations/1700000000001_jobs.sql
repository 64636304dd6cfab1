-- Up Migration
CREATE TABLE jobs (id serial PRIMARY KEY, name text);
-- Down Migration
DROP TABLE jobs;
