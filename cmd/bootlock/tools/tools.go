//go:build unix

package main

// tool is one that changes the schema. Its folder in testdata/recipes has two
// migrations, which make the tables users and jobs, or the tool brings its own.
type tool struct {
	name, folder string
	ask          string // prints its version
	command      string
	check        string // a query that says whether all is there, once
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

// version is what a program says of itself, if it is there.
func version(program string) string {
	return "command -v " + program + " >/dev/null && " + program + " --version 2>&1 | grep -oE '[0-9]+([.][0-9]+)+' | head -1"
}

var tools = []tool{
	{
		name: "knex", folder: "node/knex", ask: npm("knex"), command: "npx knex migrate:latest",
		check: both + " AND NOT EXISTS (SELECT FROM knex_migrations_lock WHERE is_locked <> 0)", lock: "a row, and gives up; a process that dies leaves it locked",
	},
	{name: "drizzle", folder: "node/drizzle", ask: file("drizzle-orm"), command: "node migrate.mjs", check: both, lock: "none"},
	{name: "typeorm", folder: "node/typeorm", ask: file("typeorm"), command: "npx typeorm migration:run -d data-source.js", check: both, lock: "none"},
	{name: "sequelize", folder: "node/sequelize", ask: file("sequelize-cli"), command: `npx sequelize-cli db:migrate --url "$DATABASE_URL"`, check: both, lock: "none"},
	{name: "umzug", folder: "node/umzug", ask: file("umzug"), command: "node migrate.js", check: both, lock: "none"},
	{
		name: "node-pg-migrate", folder: "node/node-pg-migrate", ask: file("node-pg-migrate"), command: "npx node-pg-migrate up",
		check: both, lock: "an advisory lock, and gives up",
	},
	{name: "postgrator", folder: "node/postgrator", ask: file("postgrator"), command: "node migrate.mjs", check: both, lock: "none"},
	{name: "db-migrate", folder: "node/db-migrate", ask: npm("db-migrate"), command: "npx db-migrate up", check: both, lock: "none"},
	{name: "pg-boss", folder: "node/pg-boss", ask: npm("pg-boss"), command: "node start.js", check: "SELECT count(*) = 1 FROM pgboss.version", lock: "an advisory lock in the transaction"},
	{
		name: "graphile-worker", folder: "node", ask: npm("graphile-worker"), command: "npx graphile-worker --schema-only",
		check: "SELECT count(*) > 0 FROM graphile_worker.migrations", lock: "none before 0.18",
	},
	{
		name: "@workflow/world-postgres", folder: "node", ask: "node -p \"JSON.parse(fs.readFileSync('node_modules/@workflow/world-postgres/package.json')).version\"",
		command: `sh -c 'WORKFLOW_POSTGRES_URL=$DATABASE_URL npx --package=@workflow/world-postgres bootstrap'`,
		check:   "SELECT count(*) > 0 FROM pg_namespace WHERE nspname = 'graphile_worker' OR nspname = 'workflow'", lock: "none",
	},
	{name: "alembic", folder: "alembic", ask: version("alembic"), command: "alembic upgrade head", check: "SELECT count(*) = 1 FROM alembic_version", lock: "none"},
	{
		name: "django", folder: "django", ask: "/usr/bin/python3 -m django --version", command: "/usr/bin/python3 manage.py migrate",
		check: "SELECT count(*) = count(DISTINCT (app, name)) FROM django_migrations", lock: "none",
	},
	{
		name: "activerecord", folder: "activerecord", ask: "ruby -e 'require \"active_record\"; puts ActiveRecord.version'", command: "ruby migrate.rb",
		check: both, lock: "an advisory lock, and gives up",
	},
	{name: "sequel", folder: "sequel", ask: version("sequel"), command: "sequel -m migrations " + plain, check: both, lock: "none"},
	{name: "yoyo", folder: "yoyo", ask: "/usr/bin/python3 -c 'import yoyo; print(yoyo.__version__)'", command: `/usr/bin/python3 -m yoyo apply --batch --database "${DATABASE_URL%%\?*}" migrations`, check: both, lock: "a row, and gives up after 10 s"},
	{name: "sqitch", folder: "sqitch", ask: version("sqitch"), command: `sqitch deploy "$(echo "${DATABASE_URL%%\?*}" | sed s/postgresql:/db:pg:/)"`, check: both, lock: "an advisory lock, once its registry is there"},
	{name: "psql", folder: "psql", ask: version("psql"), command: `psql -v ON_ERROR_STOP=1 -q -f init.sql "$DATABASE_URL"`, check: "SELECT count(*) = 1 FROM pg_tables WHERE schemaname = 'app' AND tablename = 'jobs'", lock: "none"},
}
