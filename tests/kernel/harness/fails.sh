# Harness proof: a job that ends with a non-zero status must be seen as failed.
#@ expect the job's status is 3
exit 3
