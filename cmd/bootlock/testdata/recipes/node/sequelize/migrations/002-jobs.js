module.exports = {
  up: (q, types) => q.createTable('jobs', { id: { type: types.INTEGER, primaryKey: true, autoIncrement: true }, payload: types.TEXT }),
  down: (q) => q.dropTable('jobs'),
};
