# The page a person follows first, over ublk.
#@ series 7.2
#@ seconds 450
#@ memory 3G
export CAIRN_BIN_DIR=/mnt/binaries CAIRN_QUICKSTART_FRONTEND=ublk CAIRN_QUICKSTART_DIR=/tmp
exec "$PROJECT/scripts/quickstart"
