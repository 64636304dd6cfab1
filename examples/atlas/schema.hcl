schema "app" {}

table "users" {
  schema = schema.app
  column "id" {
    type = bigint
    identity {
      generated = ALWAYS
    }
  }
  column "name" {
    type = text
  }
  primary_key {
    columns = [column.id]
  }
}

table "posts" {
  schema = schema.app
  column "id" {
    type = bigint
    identity {
      generated = ALWAYS
    }
  }
  column "user_id" {
    type = bigint
  }
  column "body" {
    type = text
  }
  primary_key {
    columns = [column.id]
  }
  foreign_key "posts_users" {
    columns     = [column.user_id]
    ref_columns = [table.users.column.id]
  }
  index "posts_user_id" {
    columns = [column.user_id]
  }
}
