# The main job on ext4 (A1, A2, A3, A6, X1).
#@ seconds 300
filesystem=ext4 make='mkfs.ext4 -q -F' beside='ro,noload' bare='ro' check='e2fsck -fn'
. "$PROJECT/tests/kernel/lib/filesystem.sh"
main_job
