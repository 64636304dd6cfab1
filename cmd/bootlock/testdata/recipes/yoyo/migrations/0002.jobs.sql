-- depends: 0001.users
CREATE TABLE jobs (id serial PRIMARY KEY, payload text);
