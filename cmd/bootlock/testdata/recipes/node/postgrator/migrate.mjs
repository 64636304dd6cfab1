import pg from 'pg';
import Postgrator from 'postgrator';

const client = new pg.Client(process.env.DATABASE_URL);
await client.connect();
const { rows } = await client.query('SELECT current_database() AS name');
const migrations = new URL('migrations', import.meta.url).pathname;
await new Postgrator({
  migrationPattern: migrations + '/*', driver: 'pg', database: rows[0].name,
  execQuery: (query) => client.query(query),
}).migrate();
await client.end();
