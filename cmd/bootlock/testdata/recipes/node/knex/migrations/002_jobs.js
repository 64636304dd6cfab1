exports.up = (knex) => knex.schema.createTable('jobs', (t) => { t.increments(); t.text('payload'); });
exports.down = (knex) => knex.schema.dropTable('jobs');
