#![allow(clippy::unwrap_used)] // a test may panic

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

const KEY: &str = "0123456789abcdef";

fn service(pid: u32, code: i32, exit: i32) -> Service {
    Service { main: MainProcess { pid, started: pid.into() }, code, exit, result: "success".to_owned() }
}

fn exited(exit_status: i32, out_of_memory: bool) -> SliceEvent {
    SliceEvent::UnitExited(UnitStatus { name: UnitName::App, pid: None, exit_status: Some(exit_status), out_of_memory })
}

fn observe(watch: &Watch, service: &Service) {
    watch.known(KEY, |watched| watched.observe(UnitName::App, service)).unwrap();
}

/// Everything told so far: nothing else is under way.
async fn told(watch: &Watch, mut events: mpsc::Receiver<SliceEvent>) -> Vec<SliceEvent> {
    watch.forget(KEY);
    let mut told = Vec::new();
    while let Some(event) = events.recv().await {
        told.push(event);
    }
    told
}

#[tokio::test]
async fn what_is_said_late_of_a_stopped_unit_is_no_news() {
    let watch = Watch::default();
    let events = watch.subscribe(KEY, "slice".to_owned());
    watch.starting(KEY, UnitName::App);
    watch.started(KEY, UnitName::App, Some(&service(7, 0, 0)));
    observe(&watch, &service(7, 1, 3));
    watch.stopped(KEY, UnitName::App);
    observe(&watch, &service(7, 1, 3));
    watch.baseline(KEY, UnitName::App, &service(7, 1, 3));
    assert!(watch.is_past(KEY, UnitName::App, &service(7, 1, 3)));
    // Its successor is news again, and what is still said of the former one does not hide it.
    watch.starting(KEY, UnitName::App);
    observe(&watch, &service(7, 1, 3));
    let status = watch.started(KEY, UnitName::App, Some(&service(8, 0, 0))).unwrap();
    assert_eq!(status.pid, Some(8));
    observe(&watch, &service(8, 1, 4));
    assert_eq!(told(&watch, events).await, [exited(3, false), exited(4, false)]);
}

#[tokio::test]
async fn lack_of_memory_is_told_once_whichever_is_heard_first() {
    for reason_first in [true, false] {
        let watch = Watch::default();
        let events = watch.subscribe(KEY, "slice".to_owned());
        let kills = Arc::new(AtomicU64::new(2));
        let counted = kills.clone();
        watch.count_oom(KEY, OomCount(Arc::new(move || Some(counted.load(Ordering::Relaxed)))));
        watch.started(KEY, UnitName::App, Some(&service(7, 0, 0)));
        kills.store(3, Ordering::Relaxed);
        if reason_first {
            watch.look_for_oom(KEY);
        }
        observe(&watch, &service(7, 2, 9));
        watch.look_for_oom(KEY);
        assert_eq!(told(&watch, events).await, [SliceEvent::OutOfMemory, exited(128 + 9, true)]);
    }
}

#[tokio::test]
async fn lack_of_memory_does_not_pile_up_before_a_slow_reader() {
    let watch = Watch::default();
    let mut events = watch.subscribe(KEY, "slice".to_owned());
    let kills = Arc::new(AtomicU64::new(0));
    let counted = kills.clone();
    watch.count_oom(KEY, OomCount(Arc::new(move || Some(counted.load(Ordering::Relaxed)))));
    let kill = |times: u64| {
        for _ in 0..times {
            kills.fetch_add(1, Ordering::Relaxed);
            watch.look_for_oom(KEY);
        }
    };
    kill(100);
    assert_eq!(events.recv().await, Some(SliceEvent::OutOfMemory));
    // One that was taken stands in nobody's way.
    kill(100);
    assert_eq!(told(&watch, events).await, [SliceEvent::OutOfMemory]);
}
