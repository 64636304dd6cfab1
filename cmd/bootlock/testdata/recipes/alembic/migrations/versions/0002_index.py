from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade():
    op.execute("CREATE INDEX jobs_payload ON app.jobs (payload)")
    op.execute("GRANT USAGE ON SCHEMA app TO PUBLIC")
