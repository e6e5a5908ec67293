# Harness proof: a job without an end must be stopped and seen as failed.
#@ push 7.2
#@ seconds 12
#@ expect no end within 12 s
sleep 3600
