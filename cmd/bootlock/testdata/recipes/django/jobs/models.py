from django.db import models


class Job(models.Model):
    payload = models.TextField()
