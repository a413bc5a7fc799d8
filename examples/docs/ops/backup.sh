#!/bin/sh
# Back up the Fernpost store: copy, check, encrypt, move off the machine, forget what is old.
#
# Run it from a systemd timer every 15 minutes, as the user fernpost:
#
#     BACKUP_TARGET=backup@vault.example.com:/srv/fernpost backup.sh
#
# Exit status:
#     0  a checked and encrypted copy has arrived at the target
#     2  a setting is missing
#     3  the copy could not be made
#     4  the copy is damaged; older backups were not touched
#     5  the copy could not be encrypted or moved; it is kept in the spool folder
#     6  another run is still under way
set -eu

: "${BACKUP_SPOOL:=/var/lib/fernpost/spool}"
: "${BACKUP_RECIPIENTS:=/etc/fernpost/backup-recipients.txt}"
: "${BACKUP_KEEP_DAYS:=35}"
# A backup that takes longer hangs, as on 3 September 2025, and must not hang the store as well.
: "${BACKUP_TIME_LIMIT:=20m}"

fail() {
    status=$1
    shift
    printf 'fernpost-backup: %s\n' "$*" >&2
    exit "$status"
}

[ -n "${BACKUP_TARGET:-}" ] || fail 2 "set BACKUP_TARGET to user@host:/folder"
[ -r "$BACKUP_RECIPIENTS" ] || fail 2 "cannot read $BACKUP_RECIPIENTS, the list of public keys"

umask 077
mkdir -p "$BACKUP_SPOOL"

# Two runs at once would compete for the disk and for the time limit.
exec 9>"$BACKUP_SPOOL/.lock"
flock --nonblock 9 || fail 6 "another backup is under way"

stamp=$(date -u +%Y%m%dT%H%M%SZ)
copy=$BACKUP_SPOOL/fernpost-$stamp.db
sealed=$copy.age
host=${BACKUP_TARGET%%:*}
folder=${BACKUP_TARGET#*:}

# Under a temporary name first, so that the target never shows half a file.
send() {
    name=${1##*/}
    scp -q "$1" "$BACKUP_TARGET/.incoming-$name" &&
        ssh "$host" "mv '$folder/.incoming-$name' '$folder/$name'" &&
        rm -f "$1"
}

# The plain copy holds payloads: it goes away whatever happens.
trap 'rm -f "$copy"' EXIT
trap 'exit 130' INT TERM

timeout "$BACKUP_TIME_LIMIT" fernpost backup "$copy" ||
    fail 3 "fernpost backup failed or took longer than $BACKUP_TIME_LIMIT"

# A copy nobody has read is a hope, not a backup.
verdict=$(sqlite3 -readonly "$copy" 'PRAGMA integrity_check' | head -n 1)
[ "$verdict" = ok ] || fail 4 "integrity_check says: $verdict"

age --encrypt --recipients-file "$BACKUP_RECIPIENTS" --output "$sealed" "$copy" ||
    fail 5 "cannot encrypt $copy"

send "$sealed" || fail 5 "cannot move $sealed to $host; it is kept and sent by the next run"

# What an earlier run could not move.
for waiting in "$BACKUP_SPOOL"/fernpost-*.db.age; do
    [ -e "$waiting" ] || continue
    send "$waiting" || fail 5 "cannot move $waiting to $host; it is kept and sent by the next run"
done

# Only after a good backup has arrived may an old one go.
ssh "$host" "find '$folder' -name 'fernpost-*.db.age' -mtime +$BACKUP_KEEP_DAYS -delete" ||
    printf 'fernpost-backup: old backups on %s were not removed\n' "$host" >&2

printf 'fernpost-backup: %s done\n' "$stamp"
