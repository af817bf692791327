"""Knowledge distillation: a student learns the distribution of a teacher, by every method of the field."""
