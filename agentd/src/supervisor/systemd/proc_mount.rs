//! Whether agentd sees every process of this machine. A slot is free when no process has its user, so a `/proc` that
//! hides processes (`hidepid`) would prove slots free that are not.

use std::fs;
use std::io;

/// `CAP_SYS_PTRACE`: whoever has it sees everything.
const SYS_PTRACE: u32 = 19;

/// The option that hides processes from this process; None where it sees them all.
pub fn hides_processes() -> io::Result<Option<String>> {
    let status = fs::read_to_string("/proc/self/status")?;
    Ok(hiding(&fs::read_to_string("/proc/self/mountinfo")?, &status))
}

/// From the texts of `/proc/self/mountinfo` and `/proc/self/status`.
fn hiding(mountinfo: &str, status: &str) -> Option<String> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let capabilities = field("CapEff").and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    if capabilities & (1 << SYS_PTRACE) != 0 {
        return None;
    }
    // The last one mounted there is the one that is seen.
    let options = mountinfo.lines().rev().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let options = right.split(' ').nth(2)?;
        (left.split(' ').nth(4) == Some("/proc")).then_some(options)
    })?;
    let option = |name: &str| options.split(',').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    let hidepid = option("hidepid").filter(|value| !["0", "off"].contains(value))?;
    // The members of one group are spared, root's where no other is named; but for the strictest kind.
    let group = option("gid").unwrap_or("0");
    let mut groups = field("Groups").into_iter().chain(field("Gid")).flat_map(str::split_whitespace);
    let spared = !["4", "ptraceable"].contains(&hidepid) && groups.any(|own| own == group);
    (!spared).then(|| format!("hidepid={hidepid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "Gid:\t0\t0\t0\t0\nGroups:\t \nCapEff:\t000000000000002b\n";

    #[test]
    fn hidden_processes_are_noticed() {
        let mount = |options: &str| format!("21 1 0:19 / /proc rw,nosuid - proc proc {options}\n");
        assert_eq!(hiding(&mount("rw"), ROOT), None);
        assert_eq!(hiding(&mount("rw,hidepid=off"), ROOT), None);
        // Root's group is the one that is spared.
        assert_eq!(hiding(&mount("rw,hidepid=invisible"), ROOT), None);
        assert_eq!(hiding(&mount("rw,gid=27,hidepid=2"), ROOT).as_deref(), Some("hidepid=2"));
        assert_eq!(hiding(&mount("rw,gid=27,hidepid=2"), &ROOT.replace("Groups:\t ", "Groups:\t4 27 ")), None);
        assert_eq!(hiding(&mount("rw,hidepid=ptraceable"), ROOT).as_deref(), Some("hidepid=ptraceable"));
        assert_eq!(hiding(&mount("rw,hidepid=4"), &ROOT.replace("2b", "8002b")), None);
    }
}
