Sequel.migration do
  change { create_table(:jobs) { primary_key :id; String :payload } }
end
