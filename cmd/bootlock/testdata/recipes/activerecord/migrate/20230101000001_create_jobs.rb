class CreateJobs < ActiveRecord::Migration[6.1]
  def change
    create_table(:jobs) { |t| t.text :payload }
  end
end
