package main

// tool is one that changes the schema. Its folder in testdata/recipes has two
// migrations, which make the tables users and jobs, or the tool brings its own.
type tool struct {
	name, folder string
	needs        string // a command that must be there
	ask          string // prints its version
	command      string
	check        string // a query that says whether all is there, once
	unless       string // for --unless; empty: not compared
	lock         string // what it does itself
}

const (
	both  = "SELECT count(*) = 2 FROM pg_tables WHERE schemaname = 'public' AND tablename IN ('users', 'jobs')"
	plain = `"$(echo "${DATABASE_URL%%\?*}" | sed s/postgresql:/postgres:/)"`
)

func npm(name string) string {
	return "node -p \"require('" + name + "/package.json').version\""
}

// file asks a package that does not let its package.json be required.
func file(name string) string {
	return "node -p \"JSON.parse(fs.readFileSync('../node_modules/" + name + "/package.json')).version\""
}

var tools = []tool{
	{
		name: "knex", folder: "node/knex", needs: "npm", ask: npm("knex"), command: "npx knex migrate:latest",
		check: both + " AND NOT EXISTS (SELECT FROM knex_migrations_lock WHERE is_locked <> 0)", unless: "SELECT count(*) >= 2 FROM knex_migrations",
		lock: "a row, and gives up; a process that dies leaves it locked",
	},
	{name: "drizzle", folder: "node/drizzle", needs: "npm", ask: file("drizzle-orm"), command: "node migrate.mjs", check: both, lock: "none"},
	{name: "typeorm", folder: "node/typeorm", needs: "npm", ask: file("typeorm"), command: "npx typeorm migration:run -d data-source.js", check: both, lock: "none"},
	{name: "sequelize", folder: "node/sequelize", needs: "npm", ask: file("sequelize-cli"), command: `npx sequelize-cli db:migrate --url "$DATABASE_URL"`, check: both, lock: "none"},
	{name: "umzug", folder: "node/umzug", needs: "npm", ask: file("umzug"), command: "node migrate.js", check: both, lock: "none"},
	{
		name: "node-pg-migrate", folder: "node/node-pg-migrate", needs: "npm", ask: file("node-pg-migrate"), command: "npx node-pg-migrate up",
		check: both, unless: "SELECT count(*) >= 2 FROM pgmigrations", lock: "an advisory lock, and gives up",
	},
	{name: "postgrator", folder: "node/postgrator", needs: "npm", ask: file("postgrator"), command: "node migrate.mjs", check: both, lock: "none"},
	{name: "db-migrate", folder: "node/db-migrate", needs: "npm", ask: npm("db-migrate"), command: "npx db-migrate up", check: both, lock: "none"},
	{name: "pg-boss", folder: "node/pg-boss", needs: "npm", ask: npm("pg-boss"), command: "node start.js", check: "SELECT count(*) = 1 FROM pgboss.version", lock: "an advisory lock in the transaction"},
	{
		name: "graphile-worker", folder: "node", needs: "npm", ask: "node -p \"require('graphile-worker/package.json').version\"", command: "npx graphile-worker --schema-only",
		check: "SELECT count(*) > 0 FROM graphile_worker.migrations", unless: "SELECT count(*) > 0 FROM graphile_worker.migrations WHERE id >= 18", lock: "none before 0.18",
	},
	{
		name: "@workflow/world-postgres", folder: "node", needs: "npm", ask: "node -p \"JSON.parse(fs.readFileSync('node_modules/@workflow/world-postgres/package.json')).version\"",
		command: `sh -c 'WORKFLOW_POSTGRES_URL=$DATABASE_URL npx --package=@workflow/world-postgres bootstrap'`,
		check:   "SELECT count(*) > 0 FROM pg_namespace WHERE nspname = 'graphile_worker' OR nspname = 'workflow'", lock: "none",
	},
	{name: "alembic", folder: "alembic", needs: "alembic", ask: "alembic --version 2>&1 | sed 's/.* //'", command: "alembic upgrade head", check: "SELECT count(*) = 1 FROM alembic_version", unless: "SELECT version_num = '0002' FROM alembic_version", lock: "none"},
	{
		name: "django", folder: "django", needs: "django-admin", ask: "/usr/bin/python3 -m django --version", command: "/usr/bin/python3 manage.py migrate",
		check: "SELECT count(*) = count(DISTINCT (app, name)) FROM django_migrations", lock: "none",
	},
	{
		name: "activerecord", folder: "activerecord", needs: "ruby", ask: "ruby -e 'require \"active_record\"; puts ActiveRecord.version'", command: "ruby migrate.rb",
		check: both, lock: "an advisory lock, and gives up",
	},
	{name: "sequel", folder: "sequel", needs: "sequel", ask: "sequel --version | sed 's/.* //'", command: "sequel -m migrations " + plain, check: both, lock: "none"},
	{name: "yoyo", folder: "yoyo", needs: "/usr/bin/python3", ask: "/usr/bin/python3 -c 'import yoyo; print(yoyo.__version__)'", command: `/usr/bin/python3 -m yoyo apply --batch --database "${DATABASE_URL%%\?*}" migrations`, check: both, lock: "a row, and gives up after 10 s"},
	{name: "sqitch", folder: "sqitch", needs: "sqitch", ask: "sqitch --version | sed 's/.* //'", command: `sqitch deploy "$(echo "${DATABASE_URL%%\?*}" | sed s/postgresql:/db:pg:/)"`, check: both, lock: "an advisory lock, once its registry is there"},
	{name: "psql", folder: "psql", needs: "psql", ask: "psql --version | sed 's/.*) //; s/ (.*//'", command: `psql -v ON_ERROR_STOP=1 -q -f init.sql "$DATABASE_URL"`, check: "SELECT count(*) = 1 FROM pg_tables WHERE schemaname = 'app' AND tablename = 'jobs'", lock: "none"},
}
