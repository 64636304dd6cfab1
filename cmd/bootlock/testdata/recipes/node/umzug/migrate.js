const { Sequelize, DataTypes } = require('sequelize');
const { Umzug, SequelizeStorage } = require('umzug');

const sequelize = new Sequelize(process.env.DATABASE_URL, { logging: false });
const id = { type: DataTypes.INTEGER, primaryKey: true, autoIncrement: true };
const umzug = new Umzug({
  migrations: ['users', 'jobs'].map((name) => ({ name, up: ({ context }) => context.createTable(name, { id, text: DataTypes.TEXT }) })),
  context: sequelize.getQueryInterface(),
  storage: new SequelizeStorage({ sequelize }),
  logger: undefined,
});
umzug.up().then(() => sequelize.close(), (err) => { console.error(err); process.exit(1); });
