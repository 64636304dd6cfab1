module.exports = {
  up: (q, types) => q.createTable('users', { id: { type: types.INTEGER, primaryKey: true, autoIncrement: true }, name: types.TEXT }),
  down: (q) => q.dropTable('users'),
};
