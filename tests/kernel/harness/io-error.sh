# Harness proof: an I/O error on the console fails a job whose own status is 0.
#@ expect Buffer I/O error
dmsetup create broken --table '0 2048 error'
dmsetup mknodes broken
dd if=/dev/mapper/broken of=/dev/null bs=4096 count=1 || true
exit 0
