# What `rails db:migrate` runs, without the rest of Rails. ActiveRecord has a lock
# of its own, and does not wait for it: ConcurrentMigrationError.
require "active_record"

ActiveRecord::Base.establish_connection(ENV.fetch("DATABASE_URL"))
ActiveRecord::Migration.verbose = false
ActiveRecord::MigrationContext.new("migrate", ActiveRecord::SchemaMigration).migrate
