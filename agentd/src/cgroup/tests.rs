//! What is read from the kernel's files, on files that look like them.

use std::time::Duration;

use super::*;

const V1: &str = "31 24 0:27 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
32 31 0:28 / /sys/fs/cgroup/systemd rw,nosuid shared:9 - cgroup cgroup rw,xattr,name=systemd
33 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:10 - cgroup cgroup rw,cpu,cpuacct
34 31 0:30 / /sys/fs/cgroup/memory ro,nosuid shared:11 - cgroup cgroup rw,memory
35 31 0:31 / /sys/fs/cgroup/pids rw,nosuid shared:12 - cgroup cgroup rw,pids";
const UNIFIED: &str = "36 24 0:32 / /sys/fs/cgroup rw,nosuid shared:13 - cgroup2 cgroup2 rw,nsdelegate";

#[test]
fn version_1_is_told_with_all_that_is_missing() {
    let found = Cgroups::mounted(V1);
    assert_eq!(found.hierarchy(), Hierarchy::V1);
    let told = found.enforcement();
    assert_eq!(told.enforced, ["cpu", "tasks"]);
    insta::assert_snapshot!("missing_in_version_1", told.missing.join("\n"));
    assert_eq!(
        told.limits,
        "systemd enforces cpu, tasks (control groups of version 1, which enforce less than version 2)"
    );
}

#[test]
fn version_2_enforces_what_its_controllers_do() {
    let mut found = Cgroups::mounted(UNIFIED);
    found.v2 = words("cpuset cpu io memory pids\n");
    assert_eq!(found.hierarchy(), Hierarchy::V2);
    assert_eq!(found.enforcement().enforced, ["cpu", "memory", "memory_high", "tasks"]);
    found.weights = true;
    assert!(found.enforcement().enforced.contains(&"io_weight".to_owned()));
    found.v2.remove("memory");
    let told = found.enforcement();
    assert!(told.missing.iter().any(|text| text.starts_with("memory: there is no controller memory")), "{told:?}");
    assert_eq!(Cgroups::mounted(&format!("{V1}\n{UNIFIED}")).hierarchy(), Hierarchy::Hybrid);
    assert_eq!(Cgroups::default().enforcement().enforced, Vec::<String>::new());
}

fn write(dir: &Path, files: &[(&str, &str)]) {
    fs::create_dir_all(dir).unwrap();
    for (name, text) in files {
        fs::write(dir.join(name), text).unwrap();
    }
}

#[test]
fn usage_of_version_2() {
    let dir = tempfile::tempdir().unwrap();
    let cgroups = Cgroups { unified: Some(dir.path().to_owned()), v2: words("memory"), ..Cgroups::default() };
    let files = [
        ("memory.current", "4096\n"),
        ("cpu.stat", "usage_usec 1234\nuser_usec 1000\n"),
        ("pids.current", "7\n"),
        ("memory.events", "low 0\nhigh 3\noom 2\noom_kill 1\noom_group_kill 0\n"),
        ("cpu.pressure", "some avg10=12.60 avg60=0.00 avg300=0.00 total=9\n"),
        ("memory.pressure", "some avg10=0.40 avg60=0.00 avg300=0.00 total=9\nfull avg10=99.00\n"),
    ];
    write(&dir.path().join("a.slice"), &files);
    let usage = cgroups.usage("/a.slice");
    assert_eq!(
        (usage.memory_bytes, usage.cpu_usec, usage.tasks, usage.oom_kills),
        (Some(4096), Some(1234), Some(7), Some(1))
    );
    let pressure = usage.pressure.unwrap();
    assert_eq!((pressure.cpu, pressure.memory, pressure.io), (13, 0, 0));
    assert_eq!(cgroups.usage("/gone.slice"), helix_protocol::resources::Usage::default());
}

#[test]
fn usage_of_version_1_counts_kills_below() {
    let dir = tempfile::tempdir().unwrap();
    let mount = |name: &str| (name.to_owned(), Mount { path: dir.path().join(name), writable: true });
    let v1 = ["memory", "cpuacct", "pids"].into_iter().map(mount).collect();
    let cgroups = Cgroups { v1, ..Cgroups::default() };
    write(
        &dir.path().join("memory/a.slice"),
        &[("memory.usage_in_bytes", "10\n"), ("memory.oom_control", "oom_kill 0\n")],
    );
    write(&dir.path().join("memory/a.slice/app.service"), &[("memory.oom_control", "under_oom 0\noom_kill 2\n")]);
    write(&dir.path().join("cpuacct/a.slice"), &[("cpuacct.usage", "5000000\n")]);
    let usage = cgroups.usage("a.slice");
    assert_eq!(
        (usage.memory_bytes, usage.cpu_usec, usage.tasks, usage.oom_kills),
        (Some(10), Some(5000), None, Some(2))
    );
}

#[test]
fn members_are_found_at_every_depth_and_a_group_that_is_gone_has_none() {
    let dir = tempfile::tempdir().unwrap();
    let cgroups = Cgroups { named: Some(dir.path().to_owned()), ..Cgroups::default() };
    write(&dir.path().join("a.slice"), &[("cgroup.procs", "")]);
    write(&dir.path().join("a.slice/b.service"), &[("cgroup.procs", "4000001\n0\n")]);
    write(&dir.path().join("a.slice/b.service/deep"), &[("cgroup.procs", "4000002\n")]);
    assert_eq!(cgroups.processes("/a.slice").unwrap(), [4_000_001, 4_000_002]);
    assert!(cgroups.exists("/a.slice"));
    assert_eq!(cgroups.processes("/gone.slice").unwrap(), Vec::<u32>::new());
    assert_eq!(cgroups.kill_all("/gone.slice", Duration::ZERO).unwrap(), Vec::<u32>::new());
    // Nobody has these pids: they are told, and nobody is hit.
    assert_eq!(cgroups.kill_all("/a.slice", Duration::ZERO).unwrap().len(), 2);
}

#[test]
fn freezing_waits_for_the_kernels_word_and_not_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let cgroups = Cgroups { unified: Some(dir.path().to_owned()), ..Cgroups::default() };
    write(&dir.path().join("a.slice"), &[("cgroup.freeze", "0"), ("cgroup.events", "populated 1\nfrozen 0\n")]);
    let error = cgroups.freeze("/a.slice", true, Duration::from_millis(20)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert_eq!(fs::read_to_string(dir.path().join("a.slice/cgroup.freeze")).unwrap(), "1");
    fs::write(dir.path().join("a.slice/cgroup.events"), "populated 1\nfrozen 1\n").unwrap();
    cgroups.freeze("/a.slice", true, Duration::from_millis(20)).unwrap();
}

#[tokio::test]
async fn a_kill_wakes_who_waits() {
    let dir = tempfile::tempdir().unwrap();
    let cgroups = Cgroups { unified: Some(dir.path().to_owned()), ..Cgroups::default() };
    let file = dir.path().join("a.slice/memory.events");
    write(&dir.path().join("a.slice"), &[("memory.events", "oom_kill 1\n")]);
    let events = OomEvents::new().unwrap();
    assert_eq!(events.next(&cgroups, "/a.slice", 0).await.unwrap(), 1);
    let waiting = tokio::spawn({
        let (events, cgroups) = (events.clone(), cgroups.clone());
        async move { events.next(&cgroups, "/a.slice", 1).await }
    });
    tokio::task::yield_now().await;
    fs::write(&file, "oom_kill 2\n").unwrap();
    let told = tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap();
    assert_eq!(told.unwrap(), 2);
    assert!(events.next(&cgroups, "/gone.slice", 0).await.is_err());
}
