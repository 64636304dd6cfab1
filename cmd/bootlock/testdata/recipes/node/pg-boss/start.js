const PgBoss = require('pg-boss');

const boss = new PgBoss(process.env.DATABASE_URL);
boss.start().then(() => boss.stop({ graceful: false })).then(() => process.exit(0), (err) => { console.error(err); process.exit(1); });
