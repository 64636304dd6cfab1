\set ON_ERROR_STOP on
SELECT 'CREATE DATABASE ' || quote_ident(:'name') WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'name') \gexec
SELECT 'CREATE ROLE ' || quote_ident(:'name' || '_reader') WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'name' || '_reader') \gexec
