exports.up = (db) => db.createTable('users', { id: { type: 'int', primaryKey: true, autoIncrement: true }, name: 'text' });
exports.down = (db) => db.dropTable('users');
exports._meta = { version: 1 };
