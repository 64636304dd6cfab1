require('reflect-metadata');
const { DataSource } = require('typeorm');

class Users1700000000000 {
  async up(q) { await q.query('CREATE TABLE users (id serial PRIMARY KEY, name text)'); }
  async down(q) { await q.query('DROP TABLE users'); }
}
class Jobs1700000000001 {
  async up(q) { await q.query('CREATE TABLE jobs (id serial PRIMARY KEY, payload text)'); }
  async down(q) { await q.query('DROP TABLE jobs'); }
}

module.exports = new DataSource({ type: 'postgres', url: process.env.DATABASE_URL, migrations: [Users1700000000000, Jobs1700000000001] });
