Sequel.migration do
  change { create_table(:users) { primary_key :id; String :name } }
end
