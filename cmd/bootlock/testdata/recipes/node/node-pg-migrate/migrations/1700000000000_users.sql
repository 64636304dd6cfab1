-- Up Migration
CREATE TABLE users (id serial PRIMARY KEY, name text);
-- Down Migration
DROP TABLE users;
