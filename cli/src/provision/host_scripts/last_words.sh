# What the journal has of a service of late: its own words and systemd's, of children, too, that ended before the journal asked
# whose they are. Given: the unit, since when (as journalctl reads times).
journal() {
  journalctl --since="$2" -n 200 -o cat --no-pager _SYSTEMD_UNIT="$1" + UNIT="$1" _UID=0 2>/dev/null
}
# Of that its own words, and of systemd's only why it could not be started. Given as journal.
said() {
  journal "$1" "$2" |
    grep -v "^\(Starting\|Started\|Stopping\|Stopped\|Failed to start\) \|^$1: \(Main process\|Control process\|Failed with result\|Scheduled restart\|Consumed\|Deactivated\|Triggering\|Start request\|Got notification\)" | uniq
}
# How a service fares, for people, after a line for programs: "ends" where it ended by itself since then, else "runs". Given
# as journal.
last_words() {
  ended=$(journal "$1" "$2" | sed -n \
    "s/^$1: Main process exited, code=exited, status=\([0-9]*\).*/with exit status \1/p; s/^$1: Main process exited, code=[a-z]*, status=[0-9]*\/\(.*\)/by signal \1/p" | tail -n 1)
  restarts=$(systemctl show "$1" -p NRestarts --value 2>/dev/null)
  its=$(systemctl show "$1" -p StatusText --value 2>/dev/null)
  if [ -n "$ended" ] || [ "${restarts:-0}" -gt 0 ]; then echo ends; else echo runs; fi
  echo "$1 is $(systemctl is-active "$1")${ended:+, ended $ended}, and was started again ${restarts:-0} times${its:+; it says of itself: $its}"
  words=$(said "$1" "$2" | tail -n 8 | cut -c 1-400)
  if [ -n "$words" ]; then printf 'its last words:\n%s\n' "$words" | sed '2,$s/^/  /'; fi
}
