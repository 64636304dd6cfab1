exports.up = (db) => db.createTable('jobs', { id: { type: 'int', primaryKey: true, autoIncrement: true }, name: 'text' });
exports.down = (db) => db.dropTable('jobs');
exports._meta = { version: 1 };
