# Says who holds a lock of apt's or dpkg's; fails if nobody does.
holder() {
  for file in /var/lib/dpkg/lock-frontend /var/lib/dpkg/lock /var/lib/apt/lists/lock; do
    if [ ! -e "$file" ]; then continue; fi
    pid=$(awk -v inode=":$(stat -c %i "$file")$" '$6 ~ inode && $5 > 0 { print $5; exit }' /proc/locks)
    if [ -n "$pid" ]; then
      echo "$(tr '\0\n' '  ' <"/proc/$pid/cmdline" 2>/dev/null | cut -c 1-80)(process $pid)"
      return 0
    fi
  done
  return 1
}
