CREATE TABLE jobs (id serial PRIMARY KEY, payload text);
