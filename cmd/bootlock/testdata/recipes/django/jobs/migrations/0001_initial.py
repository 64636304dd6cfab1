from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    operations = [
        migrations.CreateModel("Job", [("id", models.BigAutoField(primary_key=True)), ("payload", models.TextField())]),
    ]
