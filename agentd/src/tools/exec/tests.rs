//! Real commands, asked for through a real pair of sockets.

use std::path::Path;

use helix_protocol::tools::{Exit, INPUT_WINDOW};
use tokio::task::LocalSet;
use tokio::time::timeout;

use super::*;

/// Longer than anything here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A caller's end.
struct Caller {
    reader: tokio::net::unix::OwnedReadHalf,
    writer: OwnedWriteHalf,
}

impl Caller {
    /// Of `line`, which runs in `dir`. Among others on this thread.
    async fn run(dir: &Path, line: &str, detach: bool, places: &Arc<Semaphore>) -> (Self, Result<Started, Failure>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        // A caller who reads nothing has little on its way.
        rustix::net::sockopt::set_socket_send_buffer_size(&theirs, 4096).unwrap();
        let command = helix_protocol::tools::Command::Line(line.to_owned());
        let request = ExecRequest { command, stdin: !detach, detach, ..ExecRequest::default() };
        let (files, places) = (Files::new(dir).unwrap(), places.clone());
        tokio::task::spawn_local(async move { serve(theirs, request, &files, &places).await });
        let (reader, writer) = ours.into_split();
        let mut caller = Self { reader, writer };
        let answer = match caller.next().await {
            (FrameKind::Answer, payload) => Ok(frames::parse(&payload).unwrap()),
            (FrameKind::Failed, payload) => Err(frames::parse(&payload).unwrap()),
            other => panic!("{other:?}"),
        };
        (caller, answer)
    }

    async fn next(&mut self) -> (FrameKind, Vec<u8>) {
        let mut payload = Vec::new();
        let kind = timeout(PATIENCE, frames::read(&mut self.reader, &mut payload)).await.expect("nothing comes");
        (kind.unwrap().unwrap(), payload)
    }

    /// What it writes, and how it ends.
    async fn rest(&mut self) -> (Vec<u8>, Exit) {
        let mut said = Vec::new();
        loop {
            match self.next().await {
                (FrameKind::Data, bytes) => said.extend(bytes),
                (FrameKind::End, payload) => return (said, frames::parse(&payload).unwrap()),
                (FrameKind::Taken, _) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

fn places() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(1))
}

async fn until_there(path: &Path) {
    let there = async {
        while !path.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, there).await.unwrap_or_else(|_| panic!("{} does not come", path.display()));
}

#[tokio::test]
async fn a_command_that_says_nothing_more_still_takes_all_of_its_input() {
    let dir = tempfile::tempdir().unwrap();
    let test = async {
        let (mut caller, _) = Caller::run(dir.path(), "exec cat >big 2>&1", false, &places()).await;
        let (mut left, mut credit) = (1 << 20, INPUT_WINDOW as usize);
        while left > 0 {
            if credit == 0 {
                let (kind, payload) = caller.next().await;
                assert_eq!(kind, FrameKind::Taken);
                credit += u32::from_be_bytes(payload.try_into().unwrap()) as usize;
            }
            let count = credit.min(MAX_DATA).min(left);
            frames::write(&mut caller.writer, FrameKind::Data, &vec![7; count]).await.unwrap();
            (left, credit) = (left - count, credit - count);
        }
        frames::write(&mut caller.writer, FrameKind::End, &[]).await.unwrap();
        assert_eq!(caller.rest().await.1.exit_status, 0);
        assert_eq!(std::fs::metadata(dir.path().join("big")).unwrap().len(), 1 << 20);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn who_was_told_the_end_may_still_be_sending() {
    let dir = tempfile::tempdir().unwrap();
    let test = async {
        let (mut caller, _) = Caller::run(dir.path(), "echo over; exit 7", false, &places()).await;
        let (said, exit) = caller.rest().await;
        assert_eq!((said.as_slice(), exit.exit_status), (&b"over\n"[..], 7));
        let nothing = timeout(PATIENCE, frames::read(&mut caller.reader, &mut Vec::new())).await.unwrap();
        assert!(matches!(nothing, Ok(None)), "{nothing:?}");
        for _ in 0..20 {
            frames::write(&mut caller.writer, FrameKind::Data, &vec![7; MAX_DATA]).await.unwrap();
        }
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn the_end_does_not_wait_for_what_writes_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let test = async {
        // In a group of its own: nobody kills it. It ends when nobody reads it.
        let line = "setsid sh -c 'echo begun >there; exec yes' & while ! [ -e there ]; do :; done; exit 3";
        let (mut caller, _) = Caller::run(dir.path(), line, false, &places()).await;
        let ended = timeout(PATIENCE, caller.rest()).await.expect("it is never told");
        assert_eq!(ended.1.exit_status, 3);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_slow_caller_hears_everything() {
    let dir = tempfile::tempdir().unwrap();
    let test = async {
        // It ends although nobody reads: its pipe takes all of it, and the socket only a part.
        let line = "head -c 60000 /dev/zero; echo $? >there";
        let (mut caller, _) = Caller::run(dir.path(), line, false, &places()).await;
        until_there(&dir.path().join("there")).await;
        tokio::time::sleep(2 * LAST_OUTPUT).await;
        assert_eq!(caller.rest().await.0.len(), 60_000);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_detached_command_needs_no_stream_and_has_a_place() {
    let dir = tempfile::tempdir().unwrap();
    let test = async {
        let places = places();
        let line = "while ! [ -e go ]; do sleep 0.01; done; echo more && echo more && echo well >there";
        let (caller, started) = Caller::run(dir.path(), line, true, &places).await;
        assert!(started.is_ok());
        drop(caller);
        let (_, second) = Caller::run(dir.path(), "true", true, &places).await;
        assert_eq!(second.unwrap_err().code, ErrorCode::TooManyStreams);
        assert_eq!(Caller::run(dir.path(), "exit 2", false, &places).await.0.rest().await.1.exit_status, 2);
        std::fs::write(dir.path().join("go"), "").unwrap();
        until_there(&dir.path().join("there")).await;
        let free = timeout(PATIENCE, places.acquire()).await;
        assert!(free.is_ok(), "it keeps its place");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_detached_stream_ends_although_its_command_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let test = async {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let command =
            helix_protocol::tools::Command::Line("while ! [ -e go ]; do sleep 0.01; done; : >there".to_owned());
        let request = ExecRequest { command, detach: true, ..ExecRequest::default() };
        let files = Files::new(dir.path()).unwrap();
        drop(ours);
        timeout(PATIENCE, serve(theirs, request, &files, &places())).await.expect("it holds its stream").unwrap();
        std::fs::write(dir.path().join("go"), "").unwrap();
        until_there(&dir.path().join("there")).await;
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn what_a_detached_command_has_left_may_go_on_writing() {
    let dir = tempfile::tempdir().unwrap();
    let test = async {
        let line = "(while ! [ -e go ]; do sleep 0.01; done; echo a && echo b && echo well >there) & exit 4";
        let (mut caller, _) = Caller::run(dir.path(), line, true, &places()).await;
        assert_eq!(caller.rest().await.1.exit_status, 4);
        drop(caller);
        std::fs::write(dir.path().join("go"), "").unwrap();
        until_there(&dir.path().join("there")).await;
    };
    LocalSet::new().run_until(test).await;
}
